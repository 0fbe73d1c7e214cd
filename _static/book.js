// A formula wider than its column scrolls inside its own box, and who has no mouse must get there.
(() => {
  const mark = () => {
    for (const box of document.querySelectorAll('mjx-container[display="true"]')) {
      const scrolls = box.scrollWidth > box.clientWidth;
      if (scrolls === box.hasAttribute("tabindex")) continue;
      if (scrolls) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", "Formula, scrolls sideways");
      } else {
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      }
    }
  };
  addEventListener("load", async () => {
    if (!window.MathJax?.startup) return;
    await MathJax.startup.promise;
    mark();
    addEventListener("resize", mark);
    document.addEventListener("toggle", mark, true);
  });
})();

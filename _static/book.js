// What is wider than its column scrolls inside its own box: it fades out where it goes on.
(() => {
  const BOXES = 'mjx-container[display="true"], .pst-scrollable-table-container, .cell_output pre, .cell_input pre';
  const fade = (box) => {
    const hidden = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle("goes-on", hidden > 2);
    box.style.setProperty("--hidden", `${hidden}px`);
  };
  const fadeAll = () => document.querySelectorAll(BOXES).forEach(fade);
  const onScroll = (event) => event.target.matches?.(BOXES) && fade(event.target);
  document.addEventListener("scroll", onScroll, { capture: true, passive: true });
  addEventListener("resize", fadeAll);
  addEventListener("toggle", fadeAll, true); // what was folded had no width
  addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    fadeAll();
  });
})();

// On a phone a formula starts at the left: the room that centering keeps free for its number is lost.
if (matchMedia("(max-width: 30rem)").matches && window.MathJax) {
  window.MathJax.chtml = { displayAlign: "left", displayIndent: "0" };
}

// Who has no mouse must get to a formula that scrolls.
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

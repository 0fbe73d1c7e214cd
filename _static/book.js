// What is wider than its column scrolls inside its own box. It fades out where it goes on, and who
// has no mouse must get to a formula that scrolls.
(() => {
  const FORMULA = 'mjx-container[display="true"]';
  const BOXES = `${FORMULA}, .pst-scrollable-table-container, .cell_output pre, .cell_input pre`;
  const fade = (box) => {
    const hidden = box.scrollWidth - box.clientWidth - box.scrollLeft;
    box.classList.toggle("goes-on", hidden > 2);
    box.style.setProperty("--hidden", `${hidden}px`);
  };
  const mark = (formula) => {
    const scrolls = formula.scrollWidth > formula.clientWidth;
    if (scrolls === formula.hasAttribute("tabindex")) return;
    if (scrolls) {
      formula.tabIndex = 0;
      formula.setAttribute("role", "group");
      formula.setAttribute("aria-label", "Formula, scrolls sideways");
    } else {
      for (const name of ["tabindex", "role", "aria-label"]) formula.removeAttribute(name);
    }
  };
  const lookAtAll = () => {
    document.querySelectorAll(BOXES).forEach(fade);
    document.querySelectorAll(FORMULA).forEach(mark);
  };
  const onScroll = (event) => event.target.matches?.(BOXES) && fade(event.target);
  addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    lookAtAll();
    addEventListener("resize", lookAtAll);
    document.addEventListener("toggle", lookAtAll, true); // what was folded had no width
    document.addEventListener("scroll", onScroll, { capture: true, passive: true });
  });
})();

// On a phone a formula starts at the left: the room that centering keeps free for its number is lost.
if (matchMedia("(max-width: 30rem)").matches && window.MathJax) {
  window.MathJax.chtml = { displayAlign: "left", displayIndent: "0" };
}

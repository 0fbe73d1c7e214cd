"""One interactive output as one self-contained piece of HTML.

It needs no kernel, no network and no widget manager, so it is the same in a built page, in
JupyterLab, in Colab (where every output is its own frame) and in VS Code. The JavaScript follows
anywidget's convention, so the same text also runs as an anywidget's ``_esm``.
"""

import hashlib
import json
import re

__all__ = ["embed"]

# What JavaScript needs of an anywidget model, without a kernel behind it.
_PAGE = """(() => {
const state = %(state)s, listeners = {};
const model = {
get: (key) => state[key],
set(key, value) { state[key] = value; (listeners["change:" + key] || []).forEach((f) => f()); },
on(event, f) { (listeners[event] = listeners[event] || []).push(f); },
save_changes() {},
};
const widget = (() => {
%(code)s
})();
(function start(tries) {
const el = [...document.querySelectorAll('[data-embed="%(id)s"]')].find((e) => !e.dataset.ready);
if (!el) return tries && setTimeout(start, 50, tries - 1);
el.dataset.ready = "yes";
const still = [...el.childNodes];
el.replaceChildren();
try { widget.render({ model, el }); } catch (error) { el.replaceChildren(...still); throw error; }
})(40);
})();"""

_EXPORT = re.compile(r"(^|[;}])export default\b", flags=re.MULTILINE)


def _slim(javascript: str) -> str:
    """Drop indentation, blank lines and lines that hold only a ``//`` comment."""
    lines = (line.strip() for line in javascript.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def embed(javascript: str, state: dict, fallback_html: str) -> str:
    """Wrap JavaScript, its state and a still fallback into self-contained HTML.

    Args:
        javascript: classic-script code that ends in ``export default { render };`` with
            ``render({ model, el })`` as in anywidget: ``model.get(key)``,
            ``model.set(key, value)``, ``model.on("change:key", f)``, ``model.save_changes()``;
            ``el`` is an empty ``<div>`` of the page. It must not ``import`` anything, and a
            line's leading white space must not matter (it is removed).
        state: JSON-serializable start values of the model.
        fallback_html: what is read where scripts do not run: it is the content of ``el`` until
            ``render`` is called, and again if ``render`` throws.

    Returns:
        HTML whose element id is a hash of all three, so that equal inputs give equal text.

    Raises:
        ValueError: if ``javascript`` does not hold exactly one ``export default``, or imports.

    >>> html = embed("function render({ el }) { el.textContent = 'hi'; }\\n"
    ...              "export default { render };", {"x": 1}, "<p>still</p>")
    >>> html.startswith('<div data-embed="e'), "<p>still</p>" in html
    (True, True)
    """
    code = _slim(javascript)
    exports = len(_EXPORT.findall(code))
    if exports != 1:
        raise ValueError(
            f"the JavaScript holds {exports} statements 'export default'; it needs "
            "exactly one, such as 'export default { render };'"
        )
    if re.search(r"^(import\b|export\s(?!default\b))", code, flags=re.MULTILINE):
        raise ValueError(
            "the JavaScript has an 'import' or a named 'export', which cannot run inside a page's "
            "inline script; put all code in one text with one 'export default'"
        )
    # In a function of its own, so that its names cannot clash with the shim's.
    code = _EXPORT.sub(r"\1return ", code)
    data = json.dumps(state, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    name = "e" + hashlib.sha256("\0".join((code, data, fallback_html)).encode()).hexdigest()[:12]
    # "</script>" or "<!--" inside a script would end it or change how it is read.
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    code = code.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    page = _PAGE % {"state": data, "code": code, "id": name}
    # The classes keep MathJax and code highlighters out.
    return (
        f'<div data-embed="{name}" class="tex2jax_ignore mathjax_ignore">{fallback_html}</div>\n'
        f"<script>{page}</script>"
    )

// Single keys, unless someone is writing; they can be switched off in the help.
const isWriting = (target) => target.closest?.("input, select, textarea, [contenteditable]");

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target === byId("search")) event.target.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (isWriting(event.target)) {
    if (event.target === byId("search") && event.key === "Enter") step(0);
    return;
  }
  const inList = byId("queries").contains(event.target);
  const actions = readState().keys === "off" ? {} : {
    j: () => step(1),
    k: () => step(-1),
    "/": () => byId("search").focus(),
    "?": () => byId("help").showModal(),
    x: swap,
    a: () => go({ all: readState().all ? "" : "1" }, false),
  };
  if (inList) Object.assign(actions, { ArrowDown: () => step(1), ArrowUp: () => step(-1) });
  const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
  if (!action) return;
  event.preventDefault();
  action();
});

function swap() {
  const state = readState();
  if (shownView.other) go({ method: state.other, other: shownView.method.label });
}

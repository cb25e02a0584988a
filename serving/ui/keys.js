// What the keyboard does. Every key has a link, a button or a choice that does the same.

/** Hear the keys. `go(href)` opens a page, `beside()` gives the races before and after, the rest does what its name says. */
export function keys({ go, search, help, beside, order, commission }) {
  const open = (race) => race && go(`/race?id=${encodeURIComponent(race.race_id)}`);
  const does = {
    j: () => step(1),
    k: () => step(-1),
    n: () => open(beside().after),
    p: () => open(beside().before),
    d: () => go(beside().day),
    o: order,
    c: commission,
    "/": () => search.focus(),
    "?": () => help.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.closest?.("input:not([type=radio]), select, textarea")) return;
    // arrows are the page's own to scroll with, until a line was chosen
    const chosen = lines().includes(document.activeElement);
    const doing = does[event.key] ?? (chosen ? { ArrowDown: does.j, ArrowUp: does.k }[event.key] : null);
    if (!doing) return;
    event.preventDefault();
    doing();
  });
}

const lines = () => [...document.querySelectorAll("main tbody th a")];

function step(by) {
  const all = lines();
  const at = all.indexOf(document.activeElement);
  const to = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))];
  to?.focus();
  to?.scrollIntoView({ block: "nearest" });
}

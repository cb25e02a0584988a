// The races of a day: a page of its own, and the list beside a race.

import { h, link, named } from "./dom.js";
import { about, ago, clock, countdown, dateAfter, dateWords, oldOdds, plural, zoneName } from "./words.js";

/** The races of the day as a page. */
export function dayPage(told, today) {
  const next = nextRace(told.races);
  const other = (days, text) => {
    const date = dateAfter(told.date, days);
    return h("a", { href: `/?date=${date}`, "data-key": text, rel: days < 0 ? "prev" : "next" }, text);
  };
  return [
    h("div", { class: "head of-day" },
      h("h1", {}, dateWords(told.date)),
      h("p", { class: "quiet" }, `${plural(told.races.length, "race")}, times of ${zoneName()}`),
      h("nav", { class: "days", "aria-label": "Other days" },
        other(-1, "the day before"), today ? null : h("a", { href: "/", "data-key": "today" }, "today"), other(1, "the day after"))),
    told.model_missing ? h("p", { class: "flag warn" }, `No model: ${told.model_missing}`) : null,
    told.races.length === 0
      ? h("p", { class: "empty" }, "No race is declared on this day. ", h("code", {}, "velo cards rpscrape FILE"), " declares, ",
          h("code", {}, "velo stream"), " brings it here.")
      : h("table", { class: "day", role: "table" },
          h("caption", { class: "heard" }, "Races in order of their off"),
          h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
            ["Off", "Race", "Going and distance", "Runners", "Odds", "Stands"].map((one) =>
              h("th", { scope: "col", role: "columnheader" }, one)))),
          h("tbody", { role: "rowgroup" }, told.races.map((race) => line(race, race === next)))),
    aboutNobody(told.undeclared),
  ];
}

/** What was told of races or horses that no card declares: most often a name is misspelt. */
export function aboutNobody(undeclared) {
  if (!undeclared.length) return null;
  return h("section", { class: "undeclared" },
    h("h2", {}, `Told of nobody declared (${undeclared.length})`),
    h("p", { class: "quiet" }, "Kept: each takes effect with a card that declares it, if that comes before the off."),
    h("ul", {}, undeclared.map((one) => h("li", { class: one.declared_at ? "" : "warn" },
      h("time", { datetime: one.known_at }, clock(one.known_at)), ` ${KINDS[one.type] ?? one.type}: `,
      one.horses.length ? [named(one.horses.join(", ")), " in race "] : "race ", named(one.race_id),
      one.declared_at ? `, declared at ${clock(one.declared_at)}` : ", not declared",
      one.nearest ? ["; nearest declared name: ", named(one.nearest)] : null))));
}

const KINDS = { non_runner: "non-runner", reinstated: "runs after all", jockey_change: "change of jockey", going_change: "change of going", market: "odds" };

function line(race, isNext) {
  const cell = (kind, ...children) => h("td", { class: kind, role: "cell" }, ...children);
  return h("tr", { role: "row", class: `${race.status.replace(" ", "-")}${isNext ? " next" : ""}` },
    cell("off", h("time", { datetime: race.off_time }, clock(race.off_time))),
    h("th", { scope: "row", role: "rowheader", class: "name" },
      link("/race", race.race_id, named(race.course)), " ", h("span", { class: "title" }, race.race_name ? named(race.race_name) : "")),
    cell("about", about(race).join(" · ")),
    cell("runners", plural(race.runners, "runner"), race.withdrawn ? h("span", { class: "warn" }, ` ${plural(race.withdrawn, "non-runner")}`) : null),
    cell("odds", oddsAge(race)),
    cell("stands", h("span", { "data-off": race.race_id }, countdown(race)), isNext ? h("b", {}, " next") : null));
}

/** How old a race's odds are; flagged where they are too old to lean on before the off. */
export function oddsAge(race) {
  if (!race.odds_known_at) return h("span", { class: "quiet" }, race.status === "run" ? "no odds before the off" : "no odds");
  if (race.status !== "to come") return h("span", { class: "quiet" }, `odds of ${clock(race.odds_known_at)}`);
  const old = oldOdds(race.odds_known_at);
  return h("span", { class: old ? "warn" : "quiet" }, old ? "old odds, " : "odds ",
    h("span", { "data-age": race.odds_known_at }, ago(race.odds_known_at)));
}

/** The list beside a race. */
export function rail(told, open) {
  const next = nextRace(told.races);
  return h("ol", {}, told.races.map((race) => {
    const one = link("/race", race.race_id,
      h("time", { datetime: race.off_time }, clock(race.off_time)), " ", named(race.course),
      h("small", {}, h("span", { "data-off": race.race_id }, countdown(race)), race === next ? " · next" : ""));
    one.dataset.key = `rail ${race.race_id}`;
    if (race.race_id === open) one.setAttribute("aria-current", "page");
    return h("li", { class: race.status.replace(" ", "-") }, one);
  }));
}

export const nextRace = (races) => races.find((one) => one.status === "to come") ?? null;

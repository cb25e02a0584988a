// The races of a day: a page of its own, and the list beside a race.

import { h, link, named } from "./dom.js";
import * as w from "./words.js";

export const VIEWS = ["by time", "by meeting"];
export const SHOWN = ["all", "to come", "run"];
const { about, ago, clock, countdown, plural } = w;

/** The races of the day as a page. `picks` has each race's top selection and biggest edge by race id, as far as they are known. */
export function dayPage(day, today, { view, shown, course, picks, commission, choose, filter }) {
  const next = nextRace(day.races);
  const other = (days, text) => {
    const date = w.dateAfter(day.date, days);
    return h("a", { href: `/?date=${date}`, "data-key": text, rel: days < 0 ? "prev" : "next" }, text);
  };
  const courses = [...new Set(day.races.map((race) => race.course))].sort();
  const chosen = courses.includes(course) ? course : "";
  const races = day.races.filter((race) => (!chosen || race.course === chosen) &&
    (shown === "all" || (shown === "run" ? race.status === "run" : race.status !== "run")));
  const context = { next, picks, commission, faint: unproven(day.model) };
  return [
    h("div", { class: "head of-day" },
      h("h1", {}, w.dateWords(day.date)),
      h("p", { class: "quiet" }, `${plural(day.races.length, "race")}, ${plural(courses.length, "meeting")}, times of ${w.zoneName()}`),
      h("nav", { class: "days", "aria-label": "Other pages" },
        other(-1, "the day before"), today ? null : h("a", { href: "/", "data-key": "today" }, "today"), other(1, "the day after"),
        h("a", { href: "/monitor", "data-key": "monitor" }, "what is served"))),
    day.model_missing ? h("p", { class: "flag warn" }, `No model: ${day.model_missing}`) : null,
    day.races.length > 1 ? h("div", { class: "controls" }, radios("View", "view", VIEWS, view, choose), radios("Races", "shown", SHOWN, shown, choose),
      courses.length > 1 ? courseChoice(courses, chosen, filter) : null) : null,
    day.races.length === 0 ? nothing() : null,
    day.races.length && !races.length ? h("p", { class: "empty" }, "No race of this day matches the filters.") : null,
    view === VIEWS[1]
      ? courses.filter((name) => races.some((race) => race.course === name)).map((name) => {
          const meeting = races.filter((race) => race.course === name);
          return h("section", { class: "meeting" },
            h("h2", {}, named(name), h("small", {}, ` ${plural(meeting.length, "race")}${meeting[0].going ? `, ${meeting[0].going}` : ""}`)),
            table(meeting, context));
        })
      : races.length ? table(races, context) : null,
    context.faint && races.length ? h("p", { class: "foot" }, "Edges are faint: the model has not passed its gate, so they are for paper bets only.") : null,
    aboutNobody(day.undeclared),
  ];
}

const nothing = () => h("p", { class: "empty" }, "No race is declared on this day. ", h("code", {}, "velo cards rpscrape FILE"), " declares races, ",
  h("code", {}, "velo up"), " brings them here.");

/** Whether the model's edges are not to be relied on. */
export const unproven = (model) => model !== null && model !== undefined && model.mode !== "passed the gate";

/** A choice of one value, as radio buttons. */
export function radios(legend, name, values, chosen, choose, text = (each) => each) {
  return h("fieldset", {}, h("legend", {}, legend), values.map((value) => h("label", {}, h("input", {
    type: "radio", name, value, checked: value === String(chosen), "data-key": `${name} ${value}`, on: { change: () => choose(name, value) },
  }), " ", text(value))));
}

function courseChoice(courses, chosen, filter) {
  return h("label", { class: "course" }, h("span", {}, "Course "), h("select", { "data-key": "course", on: { change: (event) => filter(event.target.value) } },
    h("option", { value: "" }, "all"), courses.map((name) => h("option", { value: name, selected: name === chosen }, name))));
}

function table(races, context) {
  return h("table", { class: "day", role: "table" },
    h("caption", { class: "heard" }, "Races in order of their off"),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
      ["Off", "Race", "Class, distance, going", "Runners", "Top selection", `Biggest edge after ${Math.round(100 * context.commission)}\u00a0%`, "State or winner"].map((each) =>
        h("th", { scope: "col", role: "columnheader" }, each)))),
    h("tbody", { role: "rowgroup" }, races.map((race) => line(race, context))));
}

/** Messages about races or horses that no card declares: most often a name is misspelt. */
export function aboutNobody(undeclared) {
  if (!undeclared.length) return null;
  return h("section", { class: "undeclared" },
    h("h2", {}, `Messages about undeclared races or horses (${undeclared.length})`),
    h("p", { class: "quiet" }, "Kept: each takes effect with a card that declares it, if that comes before the off."),
    h("ul", {}, undeclared.map((report) => h("li", { class: report.declared_at ? "" : "warn" },
      h("time", { datetime: report.known_at }, clock(report.known_at)), ` ${KINDS[report.type] ?? report.type}: `,
      report.horses.length ? [named(report.horses.join(", ")), " in race "] : "race ", named(report.race_id),
      report.declared_at ? `, declared at ${clock(report.declared_at)}` : ", not declared",
      report.nearest ? ["; nearest declared name: ", named(report.nearest)] : null))));
}

const KINDS = { non_runner: "non-runner", reinstated: "runs after all", jockey_change: "change of jockey", going_change: "change of going", market: "odds" };

function line(race, { next, picks, commission, faint }) {
  const cell = (kind, ...children) => h("td", { class: kind, role: "cell" }, ...children);
  const pick = picks.get(race.race_id);
  return h("tr", { role: "row", class: `${race.status.replace(" ", "-")}${race === next ? " next" : ""}` },
    cell("off", h("time", { datetime: race.off_time }, clock(race.off_time))),
    h("th", { scope: "row", role: "rowheader", class: "name" },
      link("/race", race.race_id, named(race.course)), " ", h("span", { class: "title" }, race.race_name ? named(race.race_name) : "")),
    cell("about", about(race).join(" · ")),
    cell("runners", plural(race.runners, "runner"), race.withdrawn ? h("span", { class: "warn" }, ` ${plural(race.withdrawn, "non-runner")}`) : null),
    cell("pick", pick ? [named(pick.top.horse), ` ${w.percent(pick.top.chance)}`, pick.top.odds ? h("small", {}, ` ${w.odds(pick.top.odds)}`) : null] : h("span", { class: "quiet" }, w.DASH)),
    cell(`gain${faint ? " faint" : ""}`, gain(pick, commission)),
    cell("state", h("span", { "data-off": race.race_id }, countdown(race)), race === next ? h("b", {}, " next") : null,
      race.winners.length ? h("span", { class: "winner" }, " ", race.winners.map((winner, at) => [at ? ", " : "", h("b", {}, named(winner.horse)), winner.sp_decimal ? ` ${w.odds(winner.sp_decimal)}` : ""])) : null,
      race.status === "to come" && race.odds_known_at && w.oldOdds(race.odds_known_at) ? h("small", { class: "warn" }, " old odds, ", h("span", { "data-age": race.odds_known_at }, ago(race.odds_known_at))) : null));
}

function gain(pick, commission) {
  const best = pick?.runners.map((runner) => [runner, w.edge(runner.chance, runner.odds, commission)]).filter(([, value]) => value !== null)
    .sort((a, b) => b[1] - a[1])[0];
  if (!best || best[1] <= 0) return h("span", { class: "quiet" }, pick ? "none" : w.DASH);
  return [w.signed(100 * best[1], 0, "\u00a0%"), " ", named(best[0].horse), h("small", {}, ` ${w.odds(best[0].odds)}`)];
}

/** How old a race's odds are; flagged where they are too old to lean on before the off. */
export function oddsAge(race) {
  if (!race.odds_known_at) return h("span", { class: "quiet" }, race.status === "run" ? "no odds before the off" : "no odds");
  if (race.status !== "to come") return h("span", { class: "quiet" }, `odds of ${clock(race.odds_known_at)}`);
  const old = w.oldOdds(race.odds_known_at);
  return h("span", { class: old ? "warn" : "quiet" }, old ? "old odds, " : "odds ",
    h("span", { "data-age": race.odds_known_at }, ago(race.odds_known_at)));
}

/** The list beside a race. */
export function rail(day, open) {
  const next = nextRace(day.races);
  return h("ol", {}, day.races.map((race) => {
    const made = link("/race", race.race_id,
      h("time", { datetime: race.off_time }, clock(race.off_time)), " ", named(race.course),
      h("small", {}, h("span", { "data-off": race.race_id }, countdown(race)), race === next ? " · next" : ""));
    made.dataset.key = `rail ${race.race_id}`;
    if (race.race_id === open) made.setAttribute("aria-current", "page");
    return h("li", { class: race.status.replace(" ", "-") }, made);
  }));
}

export const nextRace = (races) => races.find((race) => race.status === "to come") ?? null;

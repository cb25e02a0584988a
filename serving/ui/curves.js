// The page of a horse, a trainer or a jockey: its record in figures, its curves, and the changes they are drawn from.

import { chart } from "./charts.js";
import { h, named } from "./dom.js";
import * as w from "./words.js";

const SHOWN = 30;
const WINDOWS = ["14d", "30d", "90d"];
const VELOCITY = [
  { title: "Strike rate", note: "wins from runs", of: "sr", read: (v) => w.percent(v), tick: (v) => w.percent(v, 0), floor: 0 },
  { title: "Wins against the market's expectation", note: "1 is what the odds foretold", of: "ae", read: (v) => w.number(v), floor: 0, at: 1 },
  { title: "Rivals beaten", note: "50 % is an average runner", of: "prb", read: (v) => w.percent(v, 0), at: 0.5 },
  { title: "Runs", note: "in the window", of: "runs", read: (v) => w.whole(v), floor: 0 },
];
const FORM = [
  { title: "Rivals beaten", note: "each run a dot, the line weighs late runs most; 50 % is average", lines: ["prb_ewma"], dots: "prb_last",
    read: (v) => w.percent(v, 0), floor: 0, at: 0.5, ceiling: 1 },
  { title: "What the market thought", note: "expected wins against an average runner of the race, which is 1", lines: ["market_ewma"], dots: "market_last",
    read: (v) => `${w.number(v, 1)}×`, floor: 0, at: 1 },
  { title: "Official rating", note: "at each run", lines: ["last_rating"], read: (v) => w.whole(v) },
  { title: "Strike rate, career", note: "wins from starts", lines: ["sr"], read: (v) => w.percent(v), tick: (v) => w.percent(v, 0), floor: 0 },
];
const NAMES = { sr: "won", ae: "A/E", prb: "rivals beaten", runs: "runs", prb_ewma: "lately", market_ewma: "lately", last_rating: "rating" };

/** The page. `told` is the service's answer; `since` what part of it is shown. */
export function curvesPage({ told, since, choose }) {
  const at = new Map(told.features.map((one, place) => [one.name, place]));
  const last = told.points.at(-1);
  const value = (name) => (last ? last.values[at.get(name)] : null);
  return [
    h("div", { class: "head" }, h("h1", {}, named(told.name ?? told.id)),
      h("p", { class: "facts" }, `${told.kind} · ${told.about}`)),
    last ? standing(told, last) : h("p", { class: "empty" }, "No start of it is known yet."),
    told.kind === "horse" ? null : choices(since, choose),
    last ? h("dl", { class: "figures" }, told.kind === "horse" ? record(value) : windows(value)) : null,
    last ? h("div", { class: "charts" }, drawn(told, at)) : null,
    last ? (told.kind === "horse" ? runs(told, at) : changes(told, at)) : null,
  ];
}

function standing(told, last) {
  const stale = last.valid_until !== null && Date.parse(last.valid_until) <= Date.parse(told.as_of);
  const shown = told.points.length < told.rows ? `, ${w.whole(told.points.length)} of them drawn` : "";
  return h("p", { class: stale ? "stands warn" : "stands" },
    `${w.whole(told.rows)} changes${shown}, the last at ${w.clock(last.at)} on ${w.day(last.at)}.`,
    stale ? ` Stale: a window moved on at ${w.clock(last.valid_until)} on ${w.day(last.valid_until)} and nothing was written since.` : "");
}

function choices(since, choose) {
  return h("div", { class: "controls" }, h("fieldset", {}, h("legend", {}, "Show"), [["year", "the last year"], ["all", "everything"]].map(([value, text]) =>
    h("label", {}, h("input", { type: "radio", name: "since", value, checked: value === since, "data-key": `since ${value}`,
      on: { change: () => choose("since", value) } }), " ", text))));
}

const figure = (name, text, more) => h("div", {}, h("dt", {}, name), h("dd", {}, text, more ? h("small", {}, more) : null));

function record(value) {
  return [
    figure("starts", w.whole(value("starts"))), figure("won", w.whole(value("wins")), w.percent(value("sr"))),
    figure("placed", w.whole(value("places")), w.percent(value("place_rate"))),
    figure("rivals beaten lately", w.percent(value("prb_ewma"), 0), `best ${w.percent(value("prb_best"), 0)}`),
    figure("trend a run", w.signed(value("prb_slope"), 2)), figure("runs in 90 days", w.whole(value("runs_90d"))),
  ];
}

function windows(value) {
  return WINDOWS.map((one) => figure(`last ${one.slice(0, -1)} days`, `${w.whole(value(`wins_${one}`))} from ${w.whole(value(`runs_${one}`))}`,
    `${w.percent(value(`sr_${one}`))} · A/E ${w.number(value(`ae_${one}`))} · placed ${w.percent(value(`place_rate_${one}`), 0)}`));
}

function drawn(told, at) {
  const curve = (name, label) => ({ name: label, points: told.points.map((one) => [Date.parse(one.at), one.values[at.get(name)]]) });
  const end = Date.parse(told.as_of);
  if (told.kind !== "horse")
    return VELOCITY.map((one) => chart({ ...one, end, curves: WINDOWS.map((days) => curve(`${one.of}_${days}`, `${days.slice(0, -1)} days`)) }));
  return FORM.map((one) => chart({ ...one, end, curves: one.lines.map((name) => curve(name, NAMES[name] ?? name)),
    dots: one.dots ? starts(told, at).map((row) => [dayOf(row.values[at.get("last_race_day")]), row.values[at.get(one.dots)]]) : [] }));
}

const dayOf = (days) => days * 86_400_000;

/** The rows that a new start made: its day is later than that of the row before. */
function starts(told, at) {
  const day = at.get("last_race_day");
  return told.points.filter((one, place) => one.values[day] !== null && one.values[day] !== (told.points[place - 1]?.values[day] ?? null));
}

function runs(told, at) {
  const all = starts(told, at).reverse();
  const cell = (text) => h("td", {}, text);
  const of = (one, name) => one.values[at.get(name)];
  // whoever did not finish beat a share of 0 of its rivals; of who is told to have run, that is unknown
  const unplaced = (one) => of(one, "prb_last") === null && of(one, "field_last") > 1 ? "place unknown" : "did not finish";
  const cells = (one) => [
    of(one, "position_last") === null ? unplaced(one) : `${of(one, "position_last")} of ${of(one, "field_last")}`,
    of(one, "lengths_last") === null ? w.DASH : w.number(of(one, "lengths_last"), 1), w.percent(of(one, "prb_last"), 0),
    of(one, "market_last") === null ? w.DASH : `${w.number(of(one, "market_last"), 1)}×`,
    of(one, "last_class") ?? w.DASH, w.whole(of(one, "last_distance_m")), w.whole(of(one, "last_weight_lbs")), w.whole(of(one, "last_rating")),
  ];
  return listed(`Its runs, latest first${all.length > SHOWN ? ` (${SHOWN} of ${all.length})` : ""}`,
    ["Day", "Came", "Lengths", "Beat", "Market", "Class", "m", "lb", "Rated"],
    all.slice(0, SHOWN).map((one) => h("tr", {}, h("th", { scope: "row" }, w.dayNumber(of(one, "last_race_day"))), cells(one).map(cell))));
}

function changes(told, at) {
  const all = [...told.points].reverse();
  const of = (one, name) => one.values[at.get(name)];
  const row = (one) => h("tr", {}, h("th", { scope: "row" }, `${w.day(one.at)}, ${w.clock(one.at)}`), WINDOWS.flatMap((days) => [
    h("td", {}, `${of(one, `wins_${days}`)} from ${of(one, `runs_${days}`)}`), h("td", {}, w.number(of(one, `ae_${days}`)))]));
  return listed(`The changes, latest first${all.length > SHOWN ? ` (${SHOWN} of ${all.length})` : ""}`,
    ["From", ...WINDOWS.flatMap((one) => [`${one.slice(0, -1)} days`, "A/E"])], all.slice(0, SHOWN).map(row));
}

function listed(title, columns, rows) {
  return h("section", { class: "listed" }, h("h2", {}, title), h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": title },
    h("table", { class: "plain" }, h("thead", {}, h("tr", {}, columns.map((one) => h("th", { scope: "col" }, one)))), h("tbody", {}, rows))));
}

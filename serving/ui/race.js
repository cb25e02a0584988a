// One race: who runs, with what chance, at what odds, and why.

import { h, link, named } from "./dom.js";
import { aboutNobody, oddsAge, radios, unproven } from "./day.js";
import { formLine, sinceLast, sparkline, strikeRate } from "./form.js";
import * as w from "./words.js";

export const ORDERS = ["chance", "number", "edge"];
export const COMMISSIONS = ["0.02", "0.05"];
export const LINES = ["full", "brief"];
const COLUMNS = [["no", "No."], ["horse", "Horse and form"], ["people", "Jockey and trainer, winners in 30 days"], ["chance", "Chance"], ["place", "Place"], ["fair", "Fair"],
  ["market", "Market"], ["edge", "Edge"], ["why", "What makes the chance"]];

/** The page of a race. `scored` and `form` may be null, `refused` says why or why it is old; `before` has the chances drawn last. */
export function racePage({ card, scored, form, refused, before, order, commission, lines, units, beside, choose, combinations, wanted }) {
  const chances = new Map((scored?.runners ?? []).map((each) => [each.horse_id, each]));
  const run = card.status === "run";
  const faint = unproven(scored);
  const shown = { before: run ? null : before, commission, unscored: refused || (run && scored) ? "not scored" : "being scored…", faint, terms: scored?.place_terms, run,
    form: new Map((form?.runners ?? []).map((each) => [each.horse_id, each])), prices: form?.prices ?? [], oddsAt: card.odds_known_at, ...measured(scored) };
  const rows = card.declared.map((runner) => row(runner, chances.get(runner.horse_id), shown));
  rows.sort(run && order === "chance" ? byPosition : comparing(order));
  return [
    heading(card, beside),
    standing(card, scored, refused),
    scored ? notices(scored, run) : null,
    controls({ order, commission, lines, units, choose }),
    h("table", { class: `race ${lines}${run ? " result" : ""}${refused ? " old" : ""}`, role: "table" },
      h("caption", {}, captionOf(scored, refused)),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map(([kind, column]) =>
        h("th", { scope: "col", role: "columnheader", class: kind }, header(column, commission, scored))))),
      h("tbody", { role: "rowgroup" }, rows.map((row) => row.drawn), card.non_runners.map((runner) => out(runner, card.changes)))),
    h("footer", { class: "foot" }, footnotes(scored, faint)),
    scored && card.declared.length > 2 ? exotics(card, combinations, wanted) : null,
    aboutNobody(card.undeclared),
    changes(card),
  ];
}

function header(name, commission, scored) {
  if (name === "Edge") return `Edge after ${Math.round(100 * commission)}\u00a0%`;
  if (name === "Place" && scored?.place_terms.places) return `Place, first ${scored.place_terms.places}`;
  return name;
}

function heading(card, beside) {
  const step = (race, text) => race && link("/race", race.race_id, text);
  return h("div", { class: "head" },
    h("h1", {}, h("time", { datetime: card.off_time }, w.clock(card.off_time)), " ", named(card.course)),
    h("p", { class: "race-name" }, card.race_name ? named(card.race_name) : null),
    h("p", { class: "facts" },
      [...w.about(card), card.handicap ? "handicap" : null, w.plural(card.runners, "runner")].filter(Boolean).flatMap((each, at) => [at ? " · " : "", each]),
      card.withdrawn ? h("span", { class: "warn" }, ` · ${w.plural(card.withdrawn, "non-runner")}`) : null,
      " · ", h("b", { "data-off": card.race_id }, w.countdown(card))),
    h("nav", { class: "days", "aria-label": "Other races" }, step(beside.before, "earlier race"),
      h("a", { href: beside.day, "data-key": "day" }, "all races"), step(beside.after, "later race")));
}

function standing(card, scored, refused) {
  // of a race that was run: what was known when its chances held, not what came after the off
  const known = card.status === "run" && scored ? { ...card, odds_known_at: scored.odds_known_at, odds_source: scored.odds_known_at && card.odds_source } : card;
  return [
    refused ? h("p", { class: "flag warn", role: "alert" },
      scored ? `Not scored again since ${w.clockS(scored.scored_at)}, so these chances may be out of date: ${refused}` : `Not scored: ${refused}`) : null,
    h("p", { class: "state" },
      scored ? ["Chances as of ", h("time", { datetime: scored.as_of }, w.clockS(scored.as_of)), " · "] : null,
      oddsAge(known), known.odds_source ? [" from ", named(known.odds_source)] : null, known.odds_known_at ? book(scored?.runners ?? card.declared) : null,
      oddsBefore(card) ? h("b", { class: "warn" }, " · odds from before a withdrawal") : null),
  ];
}

/** Odds that a withdrawal has made others of. */
const oddsBefore = (card) => card.odds_known_at !== null && card.status === "to come" &&
  card.non_runners.some((out) => out.odds !== null || card.changes.some((change) =>
    change.type === "non_runner" && change.about.horse_id === out.horse_id && Date.parse(change.known_at) > Date.parse(card.odds_known_at)));

function book(runners) {
  const prices = runners.map((runner) => runner.market_odds ?? runner.odds ?? null);
  if (!prices.length || prices.some((price) => price === null)) return null;
  return ` · book ${Math.round(100 * prices.reduce((sum, each) => sum + 1 / each, 0))} %`;
}

const RUN = "the race has been run";
const SAID_OTHERWISE = ["some values are stale", RUN, "market odds are starting prices"];

/** The instant that the chances of a race that was run are of: the score itself says so, for the card may be newer than the score. */
function timing(scored, run) {
  if (scored.notes.some((note) => note.startsWith(RUN))) {
    return h("li", {}, `The race has been run: these are the chances of its decision time, ${w.clockS(scored.as_of)}. Nothing known later is in them.`);
  }
  if (!run) return null;
  return h("li", { class: "warn" }, `The race has been run: these chances are of ${w.clockS(scored.as_of)}, before its result. Those of its decision time are to come.`);
}

function notices(scored, run) {
  return h("ul", { class: "notices" },
    timing(scored, run),
    scored.stale.length ? h("li", { class: "warn" }, `Stale values: ${w.views(scored.stale)}. A window has moved on since they were written.`) : null,
    scored.notes.filter((note) => !SAID_OTHERWISE.some((said) => note.startsWith(said))).map((note) => h("li", {}, note)));
}

function controls({ order, commission, lines, units, choose }) {
  return h("details", { class: "controls-fold", "data-key": "settings", open: innerWidth >= 1024 },
    h("summary", {}, "Order, units and lines"),
    h("div", { class: "controls" },
      radios("Order by", "order", ORDERS, order, choose),
      radios("Commission", "commission", COMMISSIONS, commission, choose, (each) => `${Math.round(100 * each)} %`),
      radios("Units", "units", w.UNITS, units, choose),
      radios("Lines", "lines", LINES, lines, choose)));
}

const captionOf = (scored, refused) => (scored ? `Model ${scored.model} · gate: ${scored.gate} · ${scored.mode}` : refused ? "Not scored" : "Being scored");

/** The chance that odds are compared with: the blend with the market where the model has one. */
export const held = (scored) => scored?.blended ?? scored?.probability ?? null;

function row(runner, scored, { before, commission, most, shares, unscored, faint, terms, form, prices, oddsAt, run }) {
  // a starting price comes with the result: nobody could have had an edge on it
  const price = scored && scored.market_source !== "SP" ? scored.market_odds : null;
  const gain = w.edge(held(scored), price, commission);
  const fair = held(scored) ? 1 / held(scored) : null;
  const cell = (kind, label, ...children) => h("td", { class: kind, role: "cell", "data-label": label }, ...children);
  const latest = run || !price || !oddsAt ? null : [Date.parse(oddsAt), price];
  const drawn = h("tr", { role: "row", "data-horse": runner.horse_id },
    cell("no", "Number and draw", h("b", {}, runner.runner_no ?? w.DASH),
      runner.draw === null ? null : h("small", {}, ["draw ", runner.draw])),
    h("th", { scope: "row", role: "rowheader", class: "horse" },
      runner.position !== null ? h("span", { class: "came" }, `${ordinal(runner.position)} `) : null,
      runner.status && runner.position === null ? h("span", { class: "came" }, `${runner.status} `) : null,
      link("/horse", runner.horse_id, named(runner.horse)), " ", h("small", { class: "particulars" }, particulars(runner)),
      formLine(form.get(runner.horse_id), scored?.figures), sinceLast(scored?.figures)),
    cell("people", "Jockey and trainer",
      person("jockey", runner.jockey_id, runner.jockey, scored?.figures?.jockey_30d), person("trainer", runner.trainer_id, runner.trainer, scored?.figures?.trainer_30d)),
    cell("chance", "Chance", scored ? chance(scored, before?.get(runner.horse_id), most, shares.get(runner.horse_id)) : h("span", { class: "warn" }, runner.status === "NR" ? "did not run" : unscored)),
    cell("place", "Place", placeOf(scored)),
    cell("fair", "Fair", w.odds(fair)),
    cell("market", "Market", market(scored, runner), drift(scored, price), sparkline(prices, runner.horse_id, latest, fair)),
    cell(`edge${faint ? " faint" : ""}`, "Edge", gain === null ? w.DASH : h(gain > 0 && !faint ? "b" : "span", {}, w.signed(100 * gain, gain < 10 ? 1 : 0, "\u00a0%")),
      price && known(scored?.each_way) ? h("small", { title: "mean return of a stake each way" }, ` each way ${w.signed(100 * scored.each_way, 0, "\u00a0%")}`) : null),
    cell("why", "What makes the chance", drivers(scored), flags(scored)));
  return { drawn, number: runner.runner_no, chance: held(scored), edge: gain, position: runner.position };
}

const known = (value) => value !== null && value !== undefined;

function placeOf(scored) {
  if (!known(scored?.place)) return w.DASH;
  return [w.percent(scored.place, 0), h("small", { title: "place odds at which the chance of a place breaks even" }, ` ${w.odds(1 / scored.place)}`)];
}

function person(kind, id, name, record) {
  if (!id) return h("span", { class: kind }, h("span", { class: "heard" }, `${kind}: `), h("span", { class: "warn" }, `${kind} unknown`));
  return h("span", { class: kind }, h("span", { class: "heard" }, `${kind}: `), link(`/${kind}`, id, named(name)), strikeRate(record));
}

function particulars(runner) {
  return [
    runner.age === null ? null : `${runner.age} yo`,
    runner.sex,
    w.weight(runner.weight_lbs),
    runner.official_rating === null ? null : `rated ${runner.official_rating}`,
    runner.headgear,
  ].filter(Boolean).join(" · ");
}

/** The scale that the chances of a race are drawn by: the greatest there is, and each runner's share of the book where all have odds. */
function measured(scored) {
  const runners = scored?.runners ?? [];
  const inverse = runners.map((runner) => (runner.market_odds && runner.market_source !== "SP" ? 1 / runner.market_odds : NaN));
  const book = inverse.reduce((sum, each) => sum + each, 0);
  const shares = new Map(runners.map((runner, at) => [runner.horse_id, book > 0 ? inverse[at] / book : null]));
  const ends = runners.flatMap((runner) => [held(runner), bounds(runner)?.[1] ?? 0, shares.get(runner.horse_id) ?? 0]);
  return { most: Math.max(0.01, ...ends), shares };
}

const bounds = (scored) => (scored.blended === null ? scored.interval : scored.blended_interval);

function chance(scored, before, most, share) {
  const moved = before === undefined ? 0 : 100 * (held(scored) - before);
  const between = bounds(scored);
  return [
    h("b", {}, w.percent(held(scored))),
    between ? h("small", { class: "bounds" }, `${(100 * between[0]).toFixed(1)} to ${w.percent(between[1])}`) : null,
    gauge(held(scored), between, share, most),
    Math.abs(moved) >= 0.05 ? h("small", { class: "moved" }, `${w.signed(moved)} since`) : null,
    scored.blended === null ? null : h("small", { class: "alone" }, `model alone ${w.percent(scored.probability)}`),
  ];
}

const GAUGE = { width: 120, height: 11 };

/** A chance as a bar, its bounds as a line over it, the market's share as a notch: all by the greatest of the race. */
function gauge(value, between, share, most) {
  const x = (each) => ((GAUGE.width * each) / most).toFixed(1);
  const { width, height } = GAUGE;
  return h("svg", { class: "gauge", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    h("rect", { class: "whole", x: 0, y: 3, width, height: 5 }),
    h("rect", { class: "part", x: 0, y: 3, width: x(value), height: 5 }),
    between ? h("path", { class: "range", d: `M${x(between[0])} 3v5m0-2.5H${x(between[1])}m0-2.5v5` }) : null,
    share === null || share === undefined ? null : h("path", { class: "notch", d: `M${x(share)} 0V${height}` }));
}

function market(scored, runner) {
  const price = scored ? scored.market_odds : runner.odds;
  const starting = scored?.market_source === "SP" || (price === null && runner.sp_decimal !== null);
  return [w.odds(price ?? runner.sp_decimal), starting ? h("small", {}, "SP, known after") : null];
}

const MINUTES = [60, 30, 10, 5];

/** By how much the odds have lengthened (above 0) or shortened, without the margin, over these minutes; the title says why one is unknown. */
function drift(scored, price) {
  if (price === null || !scored?.moves) return null;
  const moved = MINUTES.map((minutes) => ({ minutes, value: scored.moves[`drift_${minutes}m`], why: scored.unknown_moves?.[`drift_${minutes}m`] }));
  const unknown = moved.filter(({ value }) => !known(value)).map(({ minutes, why }) => `${minutes} minutes: ${why}`);
  const title = ["change of the odds without the margin, above 0 longer", ...unknown].join("; ");
  if (unknown.length === MINUTES.length) return h("small", { class: "drift", title }, "drift unknown");
  return h("small", { class: "drift", title }, h("span", { class: "heard" }, "drift of the odds: "),
    // the space is outside, where a line may break
    moved.map(({ minutes, value }) => [h("span", { class: "over" }, `${minutes}\u2032\u00a0${known(value) ? w.signed(100 * Math.expm1(value), 0, "%") : w.DASH}`), " "]));
}

function drivers(scored) {
  if (!scored?.drivers.length) return h("span", { class: "quiet" }, scored ? "nothing stands out" : "");
  return h("ul", { class: "drivers" }, scored.drivers.map((driver) => h("li", {},
    h("span", { class: driver.effect > 0 ? "up" : "down", "aria-hidden": "true" }, driver.effect > 0 ? "▲ " : "▼ "),
    h("span", { class: "heard" }, driver.effect > 0 ? "raises: " : "lowers: "), driver.words, h("small", { class: "times" }, ` ×${Math.exp(driver.effect).toFixed(2)}`))));
}

function flags(scored) {
  if (!scored) return null;
  return [
    scored.stale.length ? h("p", { class: "mark warn" }, `stale: ${w.views(scored.stale)}`) : null,
    scored.missing.length ? h("p", { class: "mark" }, `no record of: ${w.views(scored.missing)}`) : null,
  ];
}

/** A non-runner: struck through, and said. */
function out(runner, changes) {
  const when = changes.findLast((each) => each.type === "non_runner" && each.about.horse_id === runner.horse_id);
  const why = when?.about.reason;
  return h("tr", { class: "out", role: "row", "data-horse": runner.horse_id },
    h("td", { class: "no", role: "cell" }, h("s", {}, runner.runner_no ?? w.DASH)),
    h("th", { scope: "row", role: "rowheader", class: "horse" }, h("s", {}, link("/horse", runner.horse_id, named(runner.horse)))),
    h("td", { class: "gone", role: "cell", colspan: COLUMNS.length - 2 }, h("b", {}, "non-runner"),
      why ? [" (", named(why), ")"] : null, when ? `, known at ${w.clock(when.known_at)}` : null));
}

function footnotes(scored, faint) {
  if (!scored) return null;
  const terms = scored.place_terms;
  return [
    faint ? h("p", {}, "Edges are faint: the model has not passed its gate, so they are for paper bets only.") : null,
    h("p", {}, scored.runners.some((runner) => runner.interval)
      ? "Beside each chance: bounds of the rate at which runners given such a chance have won (95 %). They do not cover what sets this runner apart from those."
      : "No interval is shown: this model was tested on too few races to estimate one."),
    scored.runners.some((runner) => runner.blended !== null)
      ? h("p", {}, "The chance is the model's blend with the market; fair odds and edge are of that.")
      : h("p", {}, "The chance is the model's own; fair odds and edge are of that."),
    h("p", { class: "drawn more" }, "What makes the chance: × is by how much it changes the odds in favour against the race's average runner; all lines multiply to the chance."),
    terms.places ? h("p", { class: "more" }, `Place: the chance to come in the first ${terms.places}, and the place odds at which it breaks even. `,
      terms.fraction ? `Each way: the mean return of a stake, half to win and half for a place at ${w.fraction(terms.fraction)} of the odds, before commission.` : "A pool pays the place dividend.") : null,
    measured(scored).shares.values().next().value > 0 ? h("p", { class: "drawn more" }, "In a bar the line is those bounds, the notch the market's own share of the book.") : null,
    h("p", { class: "more" }, `Mode: ${scored.mode}. Features from ${scored.features_from}; runners named by the ${scored.declared_by}; fingerprint ${scored.fingerprint}.`),
  ];
}

const POOLS = ["exacta", "quinella", "trifecta", "trio", "first four", "quartet"];
const IN_ORDER = ["exacta", "trifecta", "quartet"];

/** The likeliest combinations of a pool, asked for when the section is opened. */
function exotics(card, combinations, wanted) {
  const names = new Map(card.declared.map((runner) => [runner.horse_id, runner]));
  const title = (horse) => { const runner = names.get(horse); return [runner?.runner_no ? `${runner.runner_no} ` : "", named(runner?.horse ?? horse)]; };
  const list = combinations?.combinations?.map((combination) => h("tr", {},
    h("th", { scope: "row" }, combination.horse_ids.map((horse, at) => [at ? (IN_ORDER.includes(combinations.pool) ? " → " : " + ") : "", title(horse)])),
    h("td", { class: "figure" }, w.percent(combination.probability, 2)), h("td", { class: "figure" }, w.odds(combination.fair_odds))));
  return h("details", { class: "exotics", "data-key": "exotics", on: { toggle: (event) => { if (event.target.open && !combinations) wanted("exacta"); } } },
    h("summary", {}, "Exacta, quinella, trifecta, trio, first four and quartet"),
    h("div", { class: "controls" }, radios("Bet", "pool", POOLS, combinations?.pool ?? "exacta", (_, pool) => wanted(pool))),
    combinations?.refused ? h("p", { class: "flag warn" }, combinations.refused) : null,
    list ? h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Combinations" }, h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["Horses", "Chance", "Fair"].map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", {}, list))) : null);
}

const SAID = {
  racecard: (a) => `card of ${w.plural(a.runners ?? 0, "runner")}`,
  result: (a) => `result, version ${a.result_version}`,
  going_change: (a) => ["going ", named(a.going)],
  market: (a) => [`odds of ${w.plural(Object.keys(a.prices ?? {}).length, "runner")}`, a.source ? [" from ", named(a.source)] : null],
};

function changes(card) {
  const names = new Map([...card.declared, ...card.non_runners].map((runner) => [runner.horse_id, runner.horse]));
  const who = (a) => named(names.get(a.horse_id) ?? a.horse_id);
  const words = {
    ...SAID,
    non_runner: (a) => [who(a), " does not run", a.reason ? [" (", named(a.reason), ")"] : null],
    reinstated: (a) => [who(a), " runs after all"],
    jockey_change: (a) => [named(a.jockey ?? a.jockey_id), " rides ", who(a)],
  };
  return h("details", { class: "changes", "data-key": `changes ${card.race_id}`, open: card.changes.length < 8 },
    h("summary", {}, `Messages about this race (${card.changes.length})`),
    h("ol", {}, [...card.changes].reverse().map((each) => h("li", {},
      h("time", { datetime: each.known_at }, `${w.clockS(each.known_at)} `), (words[each.type] ?? (() => each.type))(each.about)))));
}

/** Rows in an order; what is unknown comes last. */
function comparing(order) {
  const value = (each) => (order === "number" ? each.number : each[order] === null ? null : -each[order]) ?? Infinity;
  return (a, b) => (value(a) === value(b) ? 0 : value(a) - value(b)) || (a.number ?? 0) - (b.number ?? 0);
}
const byPosition = (a, b) => (a.position ?? 999) - (b.position ?? 999) || a.number - b.number;

function ordinal(n) {
  const tens = n % 100;
  const end = tens >= 11 && tens <= 13 ? "th" : ["th", "st", "nd", "rd"][n % 10] ?? "th";
  return `${n}${end}`;
}

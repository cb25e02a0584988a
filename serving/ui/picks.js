// The top selection and the odds of each race of a day, from its score: a few races at a time, those to come first.

import { held } from "./race.js";

const AT_ONCE = 2;

/** Scores the races of a day. `known` has by race id: `top`, and `runners` with chance and odds. `changed()` is called after each. */
export class Picks {
  constructor({ ask, changed }) {
    Object.assign(this, { ask, changed });
    this.known = new Map();
    this.asked = new Map();
    this.queue = [];
    this.running = 0;
  }

  /** Score the races that were not scored in their present state; a race that was run is scored once. */
  want(day) {
    if (!day.model) return;
    const order = (race) => (race.status === "run" ? 1 : 0);
    for (const race of [...day.races].sort((a, b) => order(a) - order(b))) {
      const state = race.status === "run" ? "run" : `${race.odds_known_at} ${race.runners} ${race.going}`;
      if (this.asked.get(race.race_id) === state) continue;
      this.asked.set(race.race_id, state);
      this.#add(race.race_id);
    }
  }

  #add(race) {
    if (!this.queue.includes(race)) this.queue.push(race);
    while (this.running < AT_ONCE && this.queue.length) this.#run(this.queue.shift());
  }

  async #run(race) {
    this.running += 1;
    try {
      const { body } = await this.ask(`/v1/races/${encodeURIComponent(race)}/score`);
      if (body) {
        this.known.set(race, picked(body));
        this.changed();
      } else this.asked.delete(race);
    } finally {
      this.running -= 1;
      if (this.queue.length) this.#add(this.queue.shift());
    }
  }
}

function picked(scored) {
  const runners = scored.runners.map((runner) => ({ horse: runner.horse, chance: held(runner), odds: runner.market_source === "SP" ? null : runner.market_odds }));
  return { top: runners.reduce((best, each) => (each.chance > best.chance ? each : best)), runners };
}

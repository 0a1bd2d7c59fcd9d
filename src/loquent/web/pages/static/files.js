// The place where files are dropped and summarised, one after the other, each with its progress.

import { Problem, call, patiently, pause, read } from "./api.js";
import { events } from "./events.js";
import { copy, count, seconds, show } from "./show.js";

const TRIES = 5; // connections that may break while one summary is followed
const form = document.getElementById("file");
const drop = document.getElementById("drop");
const list = document.getElementById("summaries");
let queue = Promise.resolve();

export function watchFiles(changed) {
  const take = (files) => {
    for (const file of files) {
      const card = new Card(file);
      queue = queue.then(() => card.run()).then(changed);
    }
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.file.addEventListener("change", () => {
    take([...form.file.files]);
    form.file.value = "";
  });
  // A file that misses the zone must not make the browser leave the page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, () => drop.classList.add("over"));
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    if (!form.querySelector("fieldset").disabled) take([...event.dataTransfer.files]);
  });
}

class Card {
  constructor(file) {
    this.file = file;
    this.wish = { model: form.model.value, length: form.length.value };
    this.element = copy("summary-card");
    this.find = (selector) => this.element.querySelector(selector);
    this.find("h3").textContent = file.name;
    this.say("Waiting for its turn…");
    this.aborter = new AbortController();
    this.find("button").addEventListener("click", () => this.stop());
    list.prepend(this.element);
  }

  async run() {
    try {
      const { signal } = this.aborter;
      signal.throwIfAborted();
      const waiting = (detail, left) => this.say(`${detail}; trying again in ${left} s`);
      const summary = await patiently(() => this.send(signal), waiting, signal);
      this.id = summary.generation_id;
      this.say(`Reading ${count(summary.text_length, "character")}…`);
      await this.follow(signal);
      this.finish(await read(`/api/v1/summaries/${summary.id}`));
    } catch (fault) {
      this.say(fault.name === "AbortError" ? "Stopped." : "");
      if (fault.name !== "AbortError") show(this.find(".problem"), fault.message);
    } finally {
      this.find("progress").remove();
      this.find("button").remove();
    }
  }

  say(text) {
    this.find("[role=status]").textContent = text;
  }

  async send(signal) {
    const body = new FormData();
    body.append("file", this.file);
    for (const [name, value] of Object.entries(this.wish)) if (value) body.append(name, value);
    this.say("Sending…");
    return read("/api/v1/summaries/files", { method: "POST", body, signal });
  }

  // To its end, over connections that break: each goes on from the last event that was seen.
  async follow(signal) {
    const seen = { id: "0", text: "" };
    for (let broken = 0, over = false; broken < TRIES; broken += 1) {
      try {
        const headers = { "Last-Event-ID": seen.id };
        const response = await call(`/api/v1/generations/${this.id}/events`, { headers, signal });
        for await (const event of events(response.body)) {
          seen.id = event.id ?? seen.id;
          over ||= event.name === "done";
          if (event.name === "error") throw new Problem(500, JSON.parse(event.data).detail);
          this.tell(event.name, JSON.parse(event.data), seen);
        }
      } catch (fault) {
        if (fault.name === "AbortError" || fault.status) throw fault;
      }
      if (over) return;
      await pause(1000, signal);
    }
    throw new Problem(0, "The connection broke too often; the summary will be in the history.");
  }

  tell(name, data, seen) {
    if (name === "progress") {
      const bar = this.find("progress");
      bar.max = data.of;
      bar.value = data.done;
      this.say(data.of > 1 ? `Part ${Math.min(data.done + 1, data.of)} of ${data.of}` : "Summarising…");
    }
    if (name === "restart") seen.text = "";
    if (name === "delta") seen.text += data.text;
    if (name === "restart" || name === "delta") show(this.find(".text"), seen.text);
  }

  finish(summary) {
    if (summary.status !== "completed") throw new Problem(0, summary.error_message || "It did not end well.");
    const took = summary.processing_time === null ? "" : ` in ${seconds(summary.processing_time)}`;
    const lengths = `${count(summary.text_length, "character")} → ${summary.summary_length.toLocaleString("en")}`;
    this.say(`${lengths}${took} · ${summary.model_used}`);
    const sentences = summary.sentences.map(({ text, start, end }) => {
      const item = document.createElement("li");
      item.textContent = text;
      item.title = `Characters ${start} to ${end} of the text`;
      return item;
    });
    this.find(".sentences").replaceChildren(...sentences);
    this.find(".sentences").hidden = sentences.length === 0;
    show(this.find(".text"), sentences.length ? "" : summary.summary_text);
  }

  async stop() {
    if (this.id) await call(`/api/v1/generations/${this.id}/cancel`, { method: "POST" }).catch(() => {});
    this.aborter.abort();
  }
}

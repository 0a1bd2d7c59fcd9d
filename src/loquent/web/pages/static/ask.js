// The box that streams an answer from a model.

import { Problem, call, patiently, pause } from "./api.js";
import { events } from "./events.js";
import { count, seconds, show } from "./show.js";

const form = document.getElementById("ask");
const answer = document.getElementById("answer");
const status = document.getElementById("ask-status");
const problem = document.getElementById("ask-problem");
const stop = document.getElementById("stop");
const send = form.querySelector("button[type=submit]");
const said = new Text();
let running = null;

export function watchAsk(changed) {
  stop.addEventListener("click", () => running?.abort());
  form.prompt.addEventListener("keydown", (key) => {
    if (key.key === "Enter" && (key.ctrlKey || key.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return;
    running = new AbortController();
    begin();
    try {
      const { signal } = running;
      const json = { prompt: form.prompt.value, model: form.model.value, stream: true };
      await patiently(() => ask(json, signal), waiting, signal);
    } catch (fault) {
      if (fault.name === "AbortError") await stopped();
      else fail(fault);
    } finally {
      running = null;
      end();
      changed();
    }
  });
}

function begin() {
  said.data = "";
  answer.replaceChildren(said);
  answer.hidden = true;
  show(problem, "");
  status.textContent = "Asking…";
  send.disabled = true;
  stop.hidden = false;
}

async function ask(json, signal) {
  const asked = performance.now();
  const response = await call("/api/v1/generations", { json, signal });
  answer.setAttribute("aria-busy", "true");
  answer.hidden = false;
  let first, over;
  for await (const { name, data } of events(response.body)) {
    const told = JSON.parse(data);
    if (name === "delta") {
      if (first === undefined) status.textContent = "Answering…";
      first ??= performance.now();
      add(told.text);
    } else if (name === "done") {
      over = summed(told, first ?? asked, asked); // read on to the end: leaving now would be hanging up
    } else if (name === "error") {
      throw new Problem(told.status, told.detail);
    }
  }
  if (!over) throw new Error("cut");
  status.textContent = over;
}

// Goes along with the end of the answer unless the reader has scrolled back.
function add(text) {
  const isAtEnd = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 40;
  said.appendData(text);
  if (isAtEnd) answer.scrollTop = answer.scrollHeight;
}

function summed(generation, first, asked) {
  const now = performance.now();
  const tokens = generation.usage?.completion_tokens;
  const parts = [generation.model];
  if (tokens !== undefined) {
    parts.push(`${generation.usage.estimated ? "about " : ""}${count(tokens, "token")} in ${seconds((now - asked) / 1000)}`);
    if (now - first > 50) parts.push(`${Math.round((tokens * 1000) / (now - first))} a second`);
  }
  parts.push(`first word after ${seconds((first - asked) / 1000)}`);
  if (generation.finish_reason === "length") parts.push("cut at its greatest length");
  return parts.join(" · ");
}

function waiting(detail, left) {
  status.textContent = `${detail}; trying again in ${left} s`;
}

function fail(fault) {
  status.textContent = "";
  answer.hidden = !said.data;
  show(problem, fault instanceof Problem ? fault.message : "The answer broke off.");
}

// The server sees that we hung up, and keeps what there is: a moment later it stands in the history.
async function stopped() {
  status.textContent = "Stopped.";
  await pause(500);
}

function end() {
  answer.setAttribute("aria-busy", "false");
  send.disabled = false;
  stop.hidden = true;
}

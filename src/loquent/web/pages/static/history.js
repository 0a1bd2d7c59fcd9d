// What was asked before: newest first, looked at again by itself while something is still being worked on.

import { read } from "./api.js";
import { copy, count, seconds, show } from "./show.js";

const PAGE = 10;
const AGAIN = 2000; // milliseconds between looks while something runs
const list = document.getElementById("history");
const older = document.getElementById("older");
const empty = document.getElementById("history-empty");
const problem = document.getElementById("history-problem");
let last = null;
let timer;

export function watchHistory() {
  document.getElementById("refresh").addEventListener("click", refresh);
  older.addEventListener("click", () => load(last));
}

export function refresh() {
  clearTimeout(timer);
  return load(null);
}

async function load(after) {
  let page;
  try {
    page = await read(`/api/v1/generations?limit=${PAGE}${after ? `&after=${after}` : ""}`);
  } catch (fault) {
    show(problem, fault.message);
    return;
  }
  show(problem, "");
  const open = new Set([...list.querySelectorAll("details[open]")].map((each) => each.id));
  const rows = page.data.map((generation) => row(generation, open));
  if (after) list.append(...rows);
  else list.replaceChildren(...rows);
  last = page.last_id ?? last;
  older.hidden = !page.has_more;
  empty.hidden = list.children.length > 0;
  const runs = page.data.some(({ status }) => status === "pending" || status === "processing");
  if (runs && !after && list.children.length <= PAGE) {
    clearTimeout(timer);
    timer = setTimeout(refresh, AGAIN);
  }
}

function row(generation, open) {
  const item = copy("history-row");
  const find = (selector) => item.querySelector(selector);
  const details = find("details");
  details.id = generation.id;
  find(".mark").textContent = generation.status === "completed" ? generation.kind : generation.status;
  find(".mark").classList.add(generation.status);
  find(".preview").textContent = generation.input_preview;
  find(".model").textContent = generation.model;
  const created = new Date(generation.created_at);
  find("time").dateTime = generation.created_at;
  find("time").textContent = created.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  find(".input").textContent = generation.input_preview;
  find(".output").textContent = generation.output_preview || "–";
  find(".about").textContent = about(generation);
  details.addEventListener("toggle", () => details.open && whole(generation.id, find), { once: true });
  details.open = open.has(generation.id);
  return item;
}

function about({ usage, error, created_at: created, completed_at: completed }) {
  const parts = [];
  if (usage) parts.push(`${count(usage.total_tokens, "token")}${usage.estimated ? ", estimated" : ""}`);
  if (completed) parts.push(seconds((new Date(completed) - new Date(created)) / 1000));
  if (error) parts.push(error.message);
  return parts.join(" · ");
}

// The list has only the beginnings of the texts.
async function whole(id, find) {
  try {
    const { input, output } = await read(`/api/v1/generations/${id}`);
    const asked = input.prompt ?? input.text ?? input.messages?.map(({ role, content }) => `${role}: ${content}`).join("\n");
    find(".input").textContent = asked ?? "";
    find(".output").textContent = output || "–";
  } catch (fault) {
    find(".about").textContent = fault.message;
  }
}

// The first page: finds out who asks and which models there are, then hands over to its parts.

import { greet, watchAccount } from "./account.js";
import { read } from "./api.js";
import { watchAsk } from "./ask.js";
import { watchFiles } from "./files.js";
import { refresh, watchHistory } from "./history.js";
import { fill, show } from "./show.js";

const ask = document.getElementById("ask");
const file = document.getElementById("file");
const problem = document.getElementById("ask-problem");

async function enter() {
  let user, models;
  try {
    user = await read("/api/v1/users/me");
    models = (await read("/api/v1/models")).data;
  } catch (fault) {
    if (fault.status !== 401) show(problem, fault.message);
    able(false);
    return;
  }
  greet(user);
  show(problem, "");
  const can = (...abilities) => models.filter((model) => abilities.some((each) => model.abilities.includes(each)));
  fill(ask.model, can("chat", "text"), models.find((model) => model.is_default)?.id);
  fill(file.model, can("summary", "chat"), models.find((model) => model.is_summary_default)?.id);
  able(true);
  await refresh();
}

function able(yes) {
  for (const form of [ask, file]) form.querySelector("fieldset").disabled = !yes;
  document.getElementById("refresh").disabled = !yes;
}

document.addEventListener("loquent:stranger", () => able(false));
watchAccount(enter);
watchAsk(refresh);
watchFiles(refresh);
watchHistory();
await enter();

// Logging in, registering and logging out.

import { call, keep, read, token } from "./api.js";
import { show } from "./show.js";

const box = document.getElementById("account");
const why = document.getElementById("account-why");
const form = document.getElementById("account-form");
const problem = document.getElementById("account-problem");
const who = document.getElementById("who");
const logIn = document.getElementById("log-in");
const logOut = document.getElementById("log-out");

export function watchAccount(entered) {
  document.addEventListener("loquent:stranger", () => {
    why.textContent = "This server answers people it knows.";
    box.hidden = false;
    greet(null);
  });
  logIn.addEventListener("click", () => {
    why.textContent = "What you ask is then yours on every device.";
    box.hidden = !box.hidden;
    if (!box.hidden) form.username.focus();
  });
  logOut.addEventListener("click", () => {
    keep(null);
    location.reload();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    show(problem, "");
    const given = { username: form.username.value, password: form.password.value };
    try {
      if (event.submitter?.value === "register") await call("/api/v1/users", { json: given });
      const { access_token: made } = await read("/api/v1/token", { method: "POST", body: new URLSearchParams(given) });
      keep(made);
      form.reset();
      box.hidden = true;
      entered();
    } catch (fault) {
      show(problem, fault.message);
    }
  });
}

export function greet(user) {
  const known = Boolean(user && !user.anonymous);
  show(who, known ? user.username : "");
  logIn.hidden = known || !user;
  logOut.hidden = !known && !token();
}

// Small ways to show things. Text goes in as text, never as markup.

export function show(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

export const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;

export const seconds = (number) => (number < 0.1 ? `${Math.ceil(number * 1000)} ms` : `${number.toFixed(1)} s`);

export function copy(template) {
  return document.getElementById(template).content.firstElementChild.cloneNode(true);
}

// Puts models into a picker, keeping what was picked.
export function fill(select, models, chosen) {
  const before = select.value;
  const options = models.map((model) => new Option(model.id, model.id, false, model.id === chosen));
  select.replaceChildren(...options);
  if (models.some((model) => model.id === before)) select.value = before;
}

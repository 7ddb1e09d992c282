// Elements from strings: texts of a corpus only ever become text nodes.
const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

// Isolated, so that no mark of direction in it reaches the text around it.
function isolated(text, attributes = {}) {
  return element("bdi", attributes, text);
}

function option(value, title, chosen) {
  const made = element("option", { value }, title);
  made.selected = value === chosen;
  return made;
}

const count = new Intl.NumberFormat("en");

function plural(n, noun, nouns = `${noun}s`) {
  return `${count.format(n)} ${n === 1 ? noun : nouns}`;
}

function shortNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size >= 10000 ? count.format(Math.round(value)) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}

function measured(column, place) {
  const value = column.values[place];
  if (value === null || value === undefined) return "–";
  column.digits ??= column.values.every((v) => Number.isInteger(v ?? 0)) && column.scale === 1 ? 0 : 3;
  const text = (column.scale * value).toFixed(column.digits);
  return (column.signed && value > 0 ? `+${text}` : text).replace("-", "−");
}

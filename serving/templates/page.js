"use strict";
// All text reaches the page as text (`textContent`), never as markup.

const byId = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
};
const showNumber = (value) => value.toFixed(3);

// ---- The kinds of questions ----
// `fields`: name, label, rows of the box, whether it may stay empty.
// `row`: from the values of the fields to a row of the request.
// `columns`: names of columns of a file that make a row, in order.

const splitLines = (text) =>
  text.split("\n").map((line) => line.trim()).filter((line) => line);

const KINDS = {
  classify: {
    verb: "classify",
    fields: [["text", "Text", 3], ["second", "Second text, for a model of pairs", 2, true]],
    row: (v) => (v.second.trim() ? [v.text, v.second] : [v.text]),
    values: (row) => ({ text: row[0], second: row[1] || "" }),
    columns: [["text", "text_a", "sentence", "sentence1"], ["text_b", "sentence2"]],
    needed: 1,
    help: "One text per line; ||| separates the texts of a pair. A table needs a column text.",
    predict: (row) => row.length > 1
      ? { signature_name: "text_pair", instances: [{ text_a: row[0], text_b: row[1] }] }
      : { signature_name: "text", instances: [row[0]] },
  },
  tag: {
    verb: "find names",
    fields: [["text", "Text", 4]],
    row: (v) => [v.text],
    values: (row) => ({ text: row[0] }),
    columns: [["text", "sentence"]],
    needed: 1,
    help: "One text per line. A table needs a column text.",
    predict: (row) => ({ signature_name: "text", instances: [row[0]] }),
  },
  find: {
    verb: "answer questions",
    fields: [["question", "Question", 1], ["context", "Text with the answer", 6]],
    row: (v) => [v.question, v.context],
    values: (row) => ({ question: row[0], context: row[1] }),
    columns: [["question"], ["context"]],
    needed: 2,
    help: "One question and its text per line, separated by |||. A table needs the columns question and context.",
    predict: (row) => ({
      signature_name: "text", instances: [{ question: row[0], context: row[1] }],
    }),
  },
  choose: {
    verb: "choose",
    fields: [["context", "Text", 3], ["choices", "Choices, one per line", 4]],
    row: (v) => [v.context, ...splitLines(v.choices)],
    values: (row) => ({ context: row[0], choices: row.slice(1).join("\n") }),
    columns: null,
    needed: 3,
    help: "One text and its choices per line, separated by |||. In a table the text is the first column.",
    predict: (row) => ({
      signature_name: "text", instances: [{ context: row[0], choices: row.slice(1) }],
    }),
  },
  fill: {
    verb: "fill masks",
    fields: [["text", "Text with masks", 3]],
    row: (v) => [v.text],
    values: (row) => ({ text: row[0] }),
    columns: [["text", "sentence"]],
    needed: 1,
    help: "One text with masks per line. A table needs a column text.",
    predict: null,
  },
  compare: {
    verb: "compare",
    fields: [["query", "Text to compare with", 2], ["others", "Other texts, one per line", 5]],
    row: (v) => [v.query, ...splitLines(v.others)],
    values: (row) => ({ query: row[0], others: row.slice(1).join("\n") }),
    columns: [["text", "sentence"]],
    needed: 1,
    help: "One text per line; each is compared with the text at the top of the page. A table needs a column text.",
    predict: (row) => ({ signature_name: "text", instances: row }),
  },
};

// The body of a request for one row of the form.
const bodyFor = (kind, row) => kind === "compare"
  ? { rows: row.slice(1).map((text) => [text]), query: row[0] }
  : { rows: [row] };

// ---- The models ----

let server = { models: [], max_rows: 1, max_body_bytes: 1 };
let current = null; // { model, kind, examples }
let lastRequest = 0;

const loadModels = async () => {
  try {
    server = await (await fetch("v1/models")).json();
  } catch (error) {
    byId("subtitle").textContent = "The server does not answer.";
    return;
  }
  const ready = server.models.filter((model) => model.head);
  const entries = ready.flatMap((model) =>
    model.kinds.map((entry) => ({ model, ...entry })));
  const nav = byId("models");
  const isNew = nav.children.length !== entries.length;
  if (isNew) {
    nav.replaceChildren(...entries.map((entry) => {
      const several = entry.model.kinds.length > 1;
      const name = entry.model.name + (several ? ": " + KINDS[entry.kind].verb : "");
      const button = make("button", { type: "button", textContent: name });
      button.addEventListener("click", () => choose(entry, button));
      return button;
    }));
    nav.hidden = entries.length < 2;
    const chosen = current && entries.findIndex((entry) =>
      entry.model.name === current.model.name && entry.kind === current.kind);
    if (current) {
      [...nav.children].forEach((button, number) =>
        button.setAttribute("aria-pressed", String(number === chosen)));
    } else if (entries.length) {
      choose(entries[0], nav.children[0]);
    }
  }
  if (ready.length < server.models.length) setTimeout(loadModels, 1000);
};

const choose = (entry, button) => {
  current = entry;
  lastRequest += 1;
  for (const other of byId("models").children) {
    other.setAttribute("aria-pressed", String(other === button));
  }
  const { model, kind } = entry;
  byId("title").textContent = model.name;
  byId("subtitle").textContent = "Version " + model.version + ", head " + model.head +
    (model.labels.length ? ", labels " + model.labels.join(", ") : "") + ".";
  document.title = model.name;
  showFields(kind, model);
  byId("examples").replaceChildren(make("span", { className: "soft", textContent: "Examples: " }),
    ...entry.examples.map((row) => {
      const example = make("button", { type: "button", textContent: shorten(row.join(" ||| ")) });
      example.addEventListener("click", () => {
        setValues(KINDS[kind].values(row));
        submit();
      });
      return example;
    }));
  byId("many-help").textContent = KINDS[kind].help;
  for (const id of ["problem", "answer", "many-problem", "many-answer"]) {
    byId(id).replaceChildren();
  }
  byId("code").hidden = true;
  byId("one").hidden = byId("many").hidden = false;
};

const shorten = (text) => (text.length > 60 ? text.slice(0, 60) + " …" : text);

const showFields = (kind, model) => {
  byId("fields").replaceChildren(...KINDS[kind].fields.flatMap(([name, label, rows]) => {
    const box = make("textarea", { id: "field-" + name, rows, dir: "auto", spellcheck: false });
    return [make("label", { htmlFor: box.id, textContent: label }), box];
  }));
  if (kind === "fill") {
    const insert = make("button", { type: "button", textContent: "Insert " + model.mask });
    insert.addEventListener("click", () => {
      const box = byId("field-text");
      box.setRangeText(model.mask, box.selectionStart, box.selectionEnd, "end");
      box.focus();
    });
    byId("fields").append(make("p", { className: "actions" }, insert));
  }
};

const values = () => Object.fromEntries(KINDS[current.kind].fields.map(([name]) =>
  [name, byId("field-" + name).value]));
const setValues = (texts) => {
  for (const [name, text] of Object.entries(texts)) byId("field-" + name).value = text;
};

// ---- Requests ----

class ServerError extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const ask = async (model, body, signal) => {
  const answer = await fetch("v1/models/" + model.name + ":answer", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const fields = await answer.json();
  if (!answer.ok) {
    throw new ServerError(answer.status, fields.error, Number(answer.headers.get("Retry-After")));
  }
  return fields.answers;
};

const missingField = (kind, texts) =>
  KINDS[kind].fields.find(([name, , , isOptional]) => !isOptional && !texts[name].trim());

const submit = async () => {
  const { model, kind } = current;
  const texts = values();
  const row = KINDS[kind].row(texts);
  const problem = byId("problem");
  problem.replaceChildren();
  const missing = missingField(kind, texts);
  if (missing) {
    problem.textContent = "Please fill in: " + missing[1] + ".";
    byId("field-" + missing[0]).focus();
    return;
  }
  const body = bodyFor(kind, row);
  showCode(kind, model, row, body);
  const number = ++lastRequest;
  byId("answer").setAttribute("aria-busy", "true");
  try {
    const [answer] = await ask(model, body);
    if (number === lastRequest) byId("answer").replaceChildren(...SHOWN[kind](answer, row));
  } catch (error) {
    if (number === lastRequest) {
      byId("answer").replaceChildren();
      problem.textContent = error.message;
    }
  }
  byId("answer").removeAttribute("aria-busy");
};

// ---- Answers ----

const bars = (entries) => make("div", { className: "bars" }, ...entries.flatMap(
  ([name, value, isChosen]) => [
    make("span", { className: isChosen ? "name chosen" : "name", textContent: name, dir: "auto" }),
    make("meter", { min: 0, max: 1, value: Math.max(0, value), ariaLabel: name }),
    make("span", { className: "value", textContent: showNumber(value) }),
  ]));

const showClasses = (answer) => {
  if ("value" in answer) return [make("p", {}, make("strong", { textContent: answer.value.toFixed(4) }))];
  const chosen = new Set("label" in answer ? [answer.label] : answer.labels);
  const ranked = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
  return [bars(ranked.map(([label, value]) => [label, value, chosen.has(label)]))];
};

// Colours of the types of entities, in the order in which they appear.
const colours = new Map();
const colourOf = (type) => {
  if (!colours.has(type)) colours.set(type, colours.size % 8);
  return "c" + colours.get(type);
};

// The server counts characters as Unicode does, JavaScript by halves of them.
const showTags = (answer, row) => {
  const characters = Array.from(row[0]);
  const cut = (start, end) => characters.slice(start, end).join("");
  if (!answer.entities.length) {
    const words = answer.words.map((word, number) => word + "/" + answer.tags[number]);
    return [make("p", { className: "soft", textContent: "No names were found. Tags: " + words.join("  ") })];
  }
  const parts = [];
  let place = 0;
  for (const entity of answer.entities) {
    parts.push(cut(place, entity.start));
    parts.push(make("span", { className: "entity " + colourOf(entity.type) },
      make("i", { textContent: cut(entity.start, entity.end) }),
      make("small", { textContent: entity.type })));
    place = entity.end;
  }
  parts.push(cut(place));
  return [
    make("div", { className: "text", dir: "auto" }, ...parts),
    make("h3", { textContent: "Probabilities" }),
    bars(answer.entities.map((entity) => [entity.text + " – " + entity.type, entity.probability])),
  ];
};

const showSpan = (answer, row) => {
  const characters = Array.from(row[1]);
  const cut = (start, end) => characters.slice(start, end).join("");
  const found = answer.end > answer.start;
  return [
    make("p", {}, make("strong", { textContent: found ? answer.answer : "No answer was found.", dir: "auto" })),
    make("div", { className: "text", dir: "auto" }, cut(0, answer.start),
      make("mark", { textContent: cut(answer.start, answer.end) }), cut(answer.end)),
    make("p", { className: "soft", textContent: "Score " + answer.score.toFixed(2) +
      "; score of no answer " + answer.null_score.toFixed(2) + "." }),
  ];
};

const showChoice = (answer, row) => {
  const ranked = row.slice(1).map((choice, number) =>
    [choice, answer.probabilities[number], number === answer.choice]);
  return [bars(ranked.sort((a, b) => b[1] - a[1]))];
};

const showMasks = (answer, row) => {
  const texts = row[0].split(current.model.mask);
  const parts = [];
  texts.forEach((text, number) => {
    parts.push(text);
    const mask = answer.masks[number];
    if (number < texts.length - 1 && mask) parts.push(make("mark", { textContent: mask[0].token }));
  });
  return [
    make("div", { className: "text", dir: "auto" }, ...parts),
    ...answer.masks.flatMap((mask, number) => [
      make("h3", { textContent: "Mask " + (number + 1) }),
      bars(mask.map((entry, place) => [entry.token, entry.probability, place === 0])),
    ]),
  ];
};

const showNearest = (answer) =>
  [bars(answer.nearest.map((other, place) => [other.text, other.cosine, place === 0]))];

const SHOWN = {
  classify: showClasses, tag: showTags, find: showSpan, choose: showChoice,
  fill: showMasks, compare: showNearest,
};

// ---- The request as a command and as code ----

const quoteForShell = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
const curl = (path, body) => "curl " + quoteForShell(new URL(path, location.href).href) +
  " \\\n  -d " + quoteForShell(JSON.stringify(body));
// A JSON text of strings, lists and objects is Python as well.
const python = (path, body) => [
  "import json",
  "import urllib.request",
  "",
  "url = " + JSON.stringify(new URL(path, location.href).href),
  "body = " + JSON.stringify(body),
  "request = urllib.request.Request(url, json.dumps(body).encode())",
  "with urllib.request.urlopen(request) as answer:",
  "  print(json.load(answer))",
].join("\n");

const showCode = (kind, model, row, body) => {
  const path = "v1/models/" + model.name;
  const snippets = [
    ["Command", curl(path + ":answer", body)],
    ["Python", python(path + ":answer", body)],
  ];
  if (KINDS[kind].predict) {
    const predict = KINDS[kind].predict(row);
    if (model.signatures.includes(predict.signature_name)) {
      snippets.push(["The same model in the format of TensorFlow Serving",
        curl(path + ":predict", predict)]);
    }
  }
  byId("snippets").replaceChildren(...snippets.flatMap(([title, text]) => {
    const block = make("pre", { textContent: text, tabIndex: 0 });
    const button = make("button", { type: "button", textContent: "Copy" });
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch (error) { // pages of other machines may not write there
        getSelection().selectAllChildren(block);
        button.textContent = "Selected";
      }
    });
    return [make("h3", { textContent: title }), block, make("p", {}, button)];
  }));
  byId("code").hidden = false;
};

// ---- Many rows ----

let fileName = "";

// Rows of separated values: quotes may enclose separators and line ends.
const parseSeparated = (text, separator, hasQuotes) => {
  const rows = [];
  let row = [], value = "", isQuoted = false, place = 0;
  while (place < text.length) {
    const char = text[place++];
    if (isQuoted) {
      if (char !== '"') value += char;
      else if (text[place] === '"') value += text[place++];
      else isQuoted = false;
    } else if (hasQuotes && char === '"' && !value) isQuoted = true;
    else if (char === separator) { row.push(value); value = ""; }
    else if (char === "\n") { rows.push([...row, value]); row = []; value = ""; }
    else if (char !== "\r") value += char;
  }
  if (value || row.length) rows.push([...row, value]);
  return rows.filter((cells) => cells.some((cell) => cell.trim()));
};

const pickColumns = (rows, kind) => {
  const { columns } = KINDS[kind];
  if (!columns) return rows.map((row) => row.filter((cell) => cell.trim()));
  const header = (rows[0] || []).map((cell) => cell.trim().toLowerCase());
  const places = columns.map((names) => header.findIndex((name) => names.includes(name)));
  if (places[0] >= 0) {
    const used = places.filter((place) => place >= 0);
    return rows.slice(1).map((row) => used.map((place) => row[place] || "")
      .filter((cell, number) => number < KINDS[kind].needed || cell.trim()));
  }
  return rows.map((row) => row.slice(0, KINDS[kind].needed));
};

const parseObject = (line, number, kind) => {
  let value;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new Error("Line " + (number + 1) + " is not JSON.");
  }
  if (typeof value === "string") return [value];
  if (Array.isArray(value)) return value.map(String);
  if (value && Array.isArray(value.choices)) return [value.context, ...value.choices].map(String);
  const columns = KINDS[kind].columns || [];
  const found = columns.map((names) => names.map((name) => (value || {})[name])
    .find((cell) => typeof cell === "string"));
  if (typeof found[0] !== "string") throw new Error("Line " + (number + 1) + " has no text.");
  return found.filter((cell) => typeof cell === "string");
};

const parseRows = (text, name, kind) => {
  const lower = name.toLowerCase();
  if (lower.endsWith(".jsonl")) {
    return text.split("\n").map((line) => line.trim())
      .map((line, number) => line && parseObject(line, number, kind)).filter((row) => row);
  }
  if (lower.endsWith(".csv")) return pickColumns(parseSeparated(text, ",", true), kind);
  const first = text.split("\n", 1)[0];
  if (lower.endsWith(".tsv") || first.includes("\t")) {
    return pickColumns(parseSeparated(text, "\t", false), kind);
  }
  return splitLines(text).map((line) => line.split("|||").map((part) => part.trim()));
};

// Requests of so many rows that the server takes them and progress is seen.
const cutChunks = (rows) => {
  const chunks = [];
  let chunk = [], size = 0;
  const most = Math.min(64, server.max_rows - 1) || 1;
  for (const row of rows) {
    const bytes = JSON.stringify(row).length * 3;
    if (chunk.length && (chunk.length >= most || size + bytes > server.max_body_bytes / 2)) {
      chunks.push(chunk);
      chunk = [];
      size = 0;
    }
    chunk.push(row);
    size += bytes;
  }
  return chunk.length ? [...chunks, chunk] : chunks;
};

const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

// Answers of some rows. If one row is wrong, the others are still answered.
const answerChunk = async (model, rows, signal) => {
  for (;;) {
    try {
      return await ask(model, { rows }, signal);
    } catch (error) {
      if (error.status === 503) await sleep(error.retryAfter || 1);
      else if (error.status !== 400 && error.status !== 413) throw error;
      else if (rows.length === 1) return [{ error: error.message }];
      else break;
    }
  }
  const answers = [];
  for (const row of rows) answers.push(...await answerChunk(model, [row], signal));
  return answers;
};

const FLAT = {
  classify: (answer) => "value" in answer ? { value: answer.value } : {
    ...("label" in answer ? { label: answer.label } : { labels: answer.labels.join("; ") }),
    ...Object.fromEntries(Object.entries(answer.probabilities).map(([label, value]) =>
      ["probability of " + label, value])),
  },
  tag: (answer) => ({
    entities: answer.entities.map((entity) => entity.text + " (" + entity.type + ")").join("; "),
  }),
  find: ({ answer, start, end, score, null_score }) => ({ answer, start, end, score, null_score }),
  choose: (answer) => ({
    choice: answer.choice, text: answer.text, probability: answer.probabilities[answer.choice],
  }),
  fill: (answer) => ({
    tokens: answer.masks.map((mask) => mask[0].token).join(" "),
    probabilities: answer.masks.map((mask) => showNumber(mask[0].probability)).join(" "),
  }),
  compare: (answer) => ({ cosine: answer.cosine }),
};

let stopper = null;

const runMany = async () => {
  const { model, kind } = current;
  const problem = byId("many-problem");
  problem.replaceChildren();
  byId("many-answer").replaceChildren();
  let rows;
  try {
    rows = parseRows(byId("table").value, fileName, kind);
    if (!rows.length) throw new Error("There are no rows. Paste some, or choose a file.");
  } catch (error) {
    problem.textContent = error.message;
    return;
  }
  const query = kind === "compare" ? byId("field-query").value : null;
  if (kind === "compare" && !query.trim()) {
    problem.textContent = "Please fill in: " + KINDS.compare.fields[0][1] + ".";
    byId("field-query").focus();
    return;
  }
  stopper = new AbortController();
  const { signal } = stopper;
  const progress = byId("progress");
  progress.hidden = byId("stop-many").hidden = false;
  byId("run-many").disabled = true;
  progress.max = rows.length;
  let answers = [];
  try {
    for (const chunk of cutChunks(rows)) {
      progress.value = answers.length;
      if (kind === "compare") {
        const texts = chunk.map((row) => [row[0]]);
        const [answer] = await ask(model, { rows: texts, query }, signal);
        answers.push(...answer.nearest);
      } else {
        answers.push(...await answerChunk(model, chunk, signal));
      }
    }
  } catch (error) {
    problem.textContent = error.name === "AbortError"
      ? "Stopped after " + answers.length + " rows." : error.message;
  }
  progress.hidden = byId("stop-many").hidden = true;
  byId("run-many").disabled = false;
  stopper = null;
  if (kind === "compare") {
    answers.sort((a, b) => b.cosine - a.cosine);
    rows = answers.map((answer) => [answer.text]);
  }
  if (answers.length) showMany(kind, model, rows.slice(0, answers.length), answers);
};

const MOST_SHOWN = 100;

const showMany = (kind, model, rows, answers) => {
  const flat = answers.map((answer) =>
    "error" in answer ? { error: answer.error } : FLAT[kind](answer));
  const names = [...new Set(flat.flatMap((answer) => Object.keys(answer)))];
  const numParts = Math.max(...rows.map((row) => row.length));
  const header = [...Array.from({ length: numParts }, (_, i) => numParts > 1 ? "text " + (i + 1) : "text"), ...names];
  const lines = rows.map((row, number) => [
    ...Array.from({ length: numParts }, (_, i) => row[i] ?? ""),
    ...names.map((name) => flat[number][name] ?? ""),
  ]);
  const csv = [header, ...lines].map((line) => line.map(quoteCell).join(",") + "\r\n").join("");
  const jsonl = rows.map((row, number) => JSON.stringify({
    text: row.length === 1 ? row[0] : row, ...answers[number],
  }) + "\n").join("");
  const shown = lines.slice(0, MOST_SHOWN).map((line) => make("tr", {},
    ...line.map((cell) => make("td", {
      textContent: typeof cell === "number" && !Number.isInteger(cell) ? showNumber(cell) : shorten(String(cell)),
      dir: "auto",
    }))));
  byId("many-answer").replaceChildren(
    make("p", { textContent: rows.length + " rows." + summary(answers) }),
    make("p", { className: "actions" },
      download(model.name + ".csv", "text/csv", csv),
      download(model.name + ".jsonl", "application/jsonl", jsonl)),
    make("div", { className: "wide", tabIndex: 0 }, make("table", {},
      make("thead", {}, make("tr", {}, ...header.map((name) => make("th", { textContent: name })))),
      make("tbody", {}, ...shown))),
    rows.length > MOST_SHOWN
      ? make("p", { className: "soft", textContent: "The first " + MOST_SHOWN + "; the files have all." })
      : "");
};

const summary = (answers) => {
  const counts = new Map();
  for (const answer of answers) {
    const label = "error" in answer ? "error" : answer.label;
    if (label !== undefined) counts.set(label, (counts.get(label) || 0) + 1);
  }
  const ranked = [...counts].sort((a, b) => b[1] - a[1]);
  return ranked.length ? " " + ranked.map(([label, count]) => label + " " + count).join(", ") + "." : "";
};

const quoteCell = (value) => {
  const text = String(value);
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
};

const download = (name, type, content) => {
  const button = make("button", { type: "button", textContent: "Download " + name });
  button.addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([content], { type }));
    make("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60000);
  });
  return button;
};

const takeFile = async (file) => {
  byId("table").value = await file.text();
  fileName = file.name;
  byId("drop-hint").textContent = file.name;
  await runMany();
};

// ---- Start ----

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
byId("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    submit();
  }
});
byId("run-many").addEventListener("click", runMany);
byId("stop-many").addEventListener("click", () => stopper && stopper.abort());
byId("table").addEventListener("input", () => { fileName = ""; });
byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) takeFile(file);
});
const drop = byId("drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) takeFile(event.dataTransfer.files[0]);
  });
}
loadModels();

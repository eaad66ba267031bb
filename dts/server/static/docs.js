// Shows /openapi.json: operations by tag, each with parameters, body and answers. All text goes in as text, never as HTML.
"use strict";

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// A schema as an example-like outline: types in place of values. References are followed a few levels deep.
function outline(api, schema, depth = 0) {
  if (!schema || depth > 6) return "…";
  if (schema.$ref) return outline(api, api.components.schemas[schema.$ref.split("/").pop()], depth + 1);
  if (schema.anyOf) return schema.anyOf.map((each) => outline(api, each, depth + 1))
    .map((each) => (typeof each === "string" ? each : JSON.stringify(each))).join(" | ");
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  if (schema.type === "array") return [outline(api, schema.items || schema.prefixItems?.[0], depth + 1)];
  if (schema.type === "object" && schema.properties) {
    const required = new Set(schema.required || []);
    return Object.fromEntries(Object.entries(schema.properties).map(([name, value]) =>
      [required.has(name) ? name : `${name}?`, outline(api, value, depth + 1)]));
  }
  return schema.format || schema.type || "any";
}

function bodies(api, title, content) {
  return Object.entries(content || {}).flatMap(([media, { schema }]) => [
    element("p", {}, `${title}: `, element("code", {}, media)),
    ...(schema ? [element("pre", {}, JSON.stringify(outline(api, schema), null, 2))] : []),
  ]);
}

function parameters(operation) {
  if (!operation.parameters.length) return [];
  const rows = operation.parameters.map((each) => element("tr", {},
    element("td", {}, element("code", {}, each.name)),
    element("td", {}, each.in + (each.required ? ", required" : "")),
    element("td", {}, JSON.stringify(each.schema))));
  return [element("p", {}, "Parameters"), element("table", {}, ...rows)];
}

function answers(api, operation) {
  return Object.entries(operation.responses).flatMap(([status, response]) =>
    status.startsWith("2")
      ? bodies(api, status, response.content)
      : [element("p", {}, `${status}: ${response.description}`)]);
}

function show(api, path, method, operation) {
  const inside = element("div");
  const details = element("details", {},
    element("summary", {},
      element("span", { className: "method" }, method.toUpperCase()),
      element("code", {}, path),
      element("span", { className: "summary" }, operation.summary)),
    inside);
  details.addEventListener("toggle", () => {
    if (inside.childElementCount) return;
    inside.append(
      element("p", {}, operation.description || ""),
      ...parameters(operation),
      ...bodies(api, "Body", operation.requestBody?.content),
      ...answers(api, operation));
  });
  details.dataset.words = `${method} ${path} ${operation.summary}`.toLowerCase();
  return details;
}

function showAll(api) {
  const link = document.createElement("a");
  link.href = link.textContent = "/openapi.json";
  const about = ` version ${api.info.version}. ${api.info.description}`;
  document.getElementById("about").replaceChildren(link, about);
  const main = document.getElementById("operations");
  const sections = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags[0];
      if (!sections.has(tag)) sections.set(tag, element("section", {}, element("h2", {}, tag)));
      sections.get(tag).append(show(api, path, method, operation));
    }
  }
  main.append(...sections.values());
}

document.getElementById("filter").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/);
  for (const details of document.querySelectorAll("details")) {
    details.hidden = !words.every((word) => details.dataset.words.includes(word));
  }
});

fetch("/openapi.json")
  .then((answer) => answer.json())
  .then(showAll)
  .catch((error) => { document.getElementById("about").textContent = `Cannot show the interface: ${error}`; });

// Checks KEDA objects for tests/support/kubernetes.py: a JSON array on stdin, a JSON array of sentences on stdout.
//
// The validators of the package are made from KEDA's own types, and read every field they know of. They refuse wrong
// types and what is missing, but not what they do not know; so each object shows which of its fields were never read.
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1";

const unread = new Map();

function watched(value, path) {
  if (value === null || typeof value !== "object") return value;
  const copy = Array.isArray(value) ? [] : {};
  for (const [key, inner] of Object.entries(value)) {
    copy[key] = watched(inner, `${path}/${key}`);
    if (!Array.isArray(value)) unread.set(`${path}/${key}`, true);
  }
  return new Proxy(copy, {
    get(target, key) {
      unread.delete(`${path}/${String(key)}`);
      return target[key];
    },
  });
}

let text = "";
for await (const chunk of process.stdin) text += chunk;
const found = [];
for (const data of JSON.parse(text)) {
  const name = `${data.kind} ${data.metadata?.name}`;
  unread.clear();
  const object = new ScaledObject({});
  for (const key of Object.keys(data)) object[key] = watched(data[key], `/${key}`);
  try {
    object.validate();
    for (const path of unread.keys()) found.push(`${name}: unknown field ${path}`);
  } catch (error) {
    found.push(`${name}: ${error.message}`);
  }
}
process.stdout.write(JSON.stringify(found) + "\n");

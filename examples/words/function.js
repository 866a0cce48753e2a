// The most common words of a text, in whatever language: JSON on stdin, JSON on stdout.
const { readFileSync } = require("node:fs");

const segmenter = new Intl.Segmenter("en", { granularity: "word" });

function common(text, most) {
  const counts = new Map();
  for (const { segment, isWordLike } of segmenter.segment(text.toLowerCase())) {
    if (isWordLike) counts.set(segment, (counts.get(segment) ?? 0) + 1);
  }
  console.error(`${counts.size} different words`); // a log
  return [...counts].sort((one, other) => other[1] - one[1]).slice(0, most);
}

try {
  const { text, most = 3 } = JSON.parse(readFileSync(0, "utf8")); // 0 is stdin
  console.log(JSON.stringify({ common: common(text, most) })); // the result
} catch (error) {
  console.error(`expected {"text": "...", "most": 3}: ${error.message}`);
  process.exitCode = 2;
}

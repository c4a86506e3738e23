// Unpacks the headless Chromium of the locked package @sparticuz/chromium into one folder.
//
//   node build/chromium.mjs FOLDER
//
// The package unpacks into the temporary folder of its process, so that is pointed at FOLDER. What
// comes out: the browser, its SwiftShader (WebGPU without a GPU), the libraries it links to and a
// font. FOLDER/headless-chromium starts it with those, so that nothing need be installed as root.
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";

const FONTS = `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir prefix="relative">fonts</dir>
  <dir>/usr/share/fonts</dir>
  <cachedir prefix="xdg">fontconfig</cachedir>
</fontconfig>
`;

const LAUNCHER = `#!/bin/sh
# Starts the browser beside this file with the libraries and fonts beside this file.
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH="$here/al2023/lib\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
FONTCONFIG_PATH="$here/fonts"
export LD_LIBRARY_PATH FONTCONFIG_PATH
exec "$here/chromium" "$@"
`;

const [target] = process.argv.slice(2);
if (target === undefined) throw new Error("usage: node build/chromium.mjs FOLDER");
const folder = path.resolve(target);
await mkdir(folder, { recursive: true });
process.env.TMPDIR = folder;

const { inflate } = await import("@sparticuz/chromium");
const entry = createRequire(import.meta.url).resolve("@sparticuz/chromium");
const archives = path.join(path.dirname(entry), "..", "bin");
const names = ["chromium.br", "swiftshader.tar.br", "al2023.tar.br", "fonts.tar.br"];
await Promise.all(names.map((name) => inflate(path.join(archives, name))));

await writeFile(path.join(folder, "fonts", "fonts.conf"), FONTS);
const launcher = path.join(folder, "headless-chromium");
await writeFile(launcher, LAUNCHER);
await chmod(launcher, 0o755);

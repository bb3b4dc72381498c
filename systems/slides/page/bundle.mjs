// The page as C arrays: OpenSeadragon and page.js in one script. usage: bundle.mjs OUTPUT
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const read = (...names) => readFileSync(join(here, ...names));

const library = read('node_modules', 'openseadragon', 'build', 'openseadragon', 'openseadragon.min.js')
  .toString().replace(/\/\/# sourceMappingURL=.*\s*$/, '');

const parts = {
  html: read('index.html'),
  css: read('page.css'),
  js: Buffer.from(`${library}\n${read('page.js')}`),
};

let text = '#include <stddef.h>\n';
for (const [name, bytes] of Object.entries(parts)) {
  const rows = [];
  for (let at = 0; at < bytes.length; at += 24)
    rows.push([...bytes.subarray(at, at + 24)].join(','));
  text += `extern const unsigned char slides_page_${name}[];\n`;
  text += `extern const size_t slides_page_${name}_size;\n`;
  text += `const unsigned char slides_page_${name}[] = {\n${rows.join(',\n')}\n};\n`;
  text += `const size_t slides_page_${name}_size = ${bytes.length};\n`;
}
writeFileSync(process.argv[2], text);

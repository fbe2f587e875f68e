// Finds classes and groups by what is typed: beginnings of words in names, then in synonyms; a WordNet id; # and an index.

export function fold(text) {
  return text
    .normalize("NFKD")
    .replace(/\p{M}/gu, "")
    .toLowerCase()
    .replace(/’/g, "'")
    .replace(/[\s_-]+/g, " ")
    .trim();
}

const words = text => text.split(/[\s,;/()"]+/).filter(Boolean);

export function makeIndex(classes) {
  return classes.map(({ name, id, also, size }, label) => {
    const folded = fold(name);
    const synonyms = also.split(",").map(fold).filter(Boolean);
    return { label, name: folded, words: words(folded), synonyms, synonymWords: words(synonyms.join(" ")), id, size };
  });
}

// Labels of the classes and groups that fit, best first; `slots` come first among equals.
export function find(index, query, slots) {
  const wanted = fold(query);
  if (wanted.startsWith("#")) {
    const number = wanted.slice(1).trim();
    return index.filter(one => number && !one.size && String(one.label).startsWith(number)).map(one => one.label);
  }
  const tokens = words(wanted);
  if (!tokens.length) return [];
  const found = [];
  for (const one of index) {
    const rank = rankOf(one, wanted, tokens);
    if (rank < Infinity) found.push([rank, slots.includes(one.label) ? 0 : 1, one.name.length, one.label]);
  }
  found.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2] || a[3] - b[3]);
  return found.map(entry => entry[3]);
}

function rankOf(one, wanted, tokens) {
  if (one.name === wanted) return 0;
  if (/^n\d{3,8}$/.test(wanted) && one.id.startsWith(wanted)) return 1;
  if (one.synonyms.includes(wanted)) return 2;
  if (one.name.startsWith(wanted)) return 3;
  if (` ${one.name}`.includes(` ${wanted}`)) return 4;
  if (tokens.every(token => one.words.some(word => word.startsWith(token)))) return 5;
  if (one.synonyms.some(synonym => synonym.startsWith(wanted))) return 6;
  const all = one.words.concat(one.synonymWords);
  if (tokens.every(token => all.some(word => word.startsWith(token)))) return 7;
  if (wanted.length > 2 && one.name.includes(wanted)) return 8;
  return Infinity;
}

/** TypeScript source with everything that is not code blanked out, without a parser. */

/** A masked source: same length, same lines. */
export interface Masked {
  /** Comments, the text of strings and templates, and regular expressions are spaces; quotes stay. */
  readonly code: string;
  /** The text of each plain string by the offset of its opening quote. */
  readonly strings: ReadonlyMap<number, string>;
}

const LINE_COMMENT = /\/\/[^\n]*/y;
const BLOCK_COMMENT = /\/\*[\s\S]*?(?:\*\/|$)/y;
const STRING = /"(?:[^"\\\n]|\\[\s\S])*"?|'(?:[^'\\\n]|\\[\s\S])*'?/y;
const TEMPLATE_TEXT = /(?:[^`\\$]|\\[\s\S]|\$(?!\{))*/y;
const REGULAR_EXPRESSION = /\/(?![*/])(?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/y;
const WORD = /[\w$]+/y;
const KEYWORD_BEFORE_EXPRESSION = /^(?:return|typeof|case|in|of|do|else|void|delete|throw|new|await|yield)$/;

/** Masks a source. Broken sources never fail: what follows the break may be masked wrongly. */
export function maskSource(source: string): Masked {
  const out: string[] = [];
  const strings = new Map<number, string>();
  const depths: number[] = []; // open braces inside each `${` that has not ended yet
  let braces = 0;
  let at = 0;
  let previous = ""; // the last token of code: decides between division and regular expression

  const take = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    return pattern.exec(source)?.[0];
  };
  const keep = (text: string) => {
    out.push(text);
    at += text.length;
    previous = text;
  };
  const blank = (text: string) => {
    out.push(text.replace(/[^\n]/g, " "));
    at += text.length;
  };
  /** From the text of a template to its end or its next `${`. */
  const template = () => {
    blank(take(TEMPLATE_TEXT)!);
    if (source.startsWith("${", at)) {
      depths.push(braces);
      keep("${");
    } else if (at < source.length) keep("`");
  };

  while (at < source.length) {
    const char = source[at]!;
    const comment = char === "/" ? take(LINE_COMMENT) ?? take(BLOCK_COMMENT) : undefined;
    const regex = char === "/" && !comment && startsExpression(previous)
      ? take(REGULAR_EXPRESSION)
      : undefined;
    const string = char === '"' || char === "'" ? take(STRING) : undefined;
    const word = take(WORD);
    if (comment) blank(comment);
    else if (regex) {
      blank(regex);
      previous = "0"; // a value: a slash after it divides
    } else if (string) {
      strings.set(at, string.slice(1, -1));
      keep(char);
      blank(string.slice(1, -1));
      if (at < source.length && string.length > 1) keep(source[at]!);
    } else if (word) keep(word);
    else if (/\s/.test(char)) blank(char);
    else if (char === "`") {
      keep(char);
      template();
    } else if (char === "}" && depths.at(-1) === braces) {
      depths.pop();
      keep(char);
      template();
    } else {
      if (char === "{") braces++;
      if (char === "}") braces--;
      keep(char);
    }
  }
  return { code: out.join(""), strings };
}

function startsExpression(previous: string): boolean {
  return previous === "" || KEYWORD_BEFORE_EXPRESSION.test(previous) || /^[^\w$)\]}"'`]/.test(previous) ||
    previous === "${";
}

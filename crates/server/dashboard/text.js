// @ts-check
// Figures as text.
//
// Owns: units and rounding. Invariants: an unknown value is a dash with words for those who hear the page.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });

const small = new Intl.NumberFormat('en', { maximumSignificantDigits: 2 });
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 2 });

export const UNKNOWN = '–';

/** @param {number | null | undefined} value */
export function count(value) {
  return value === null || value === undefined ? UNKNOWN : whole.format(value);
}

/**
 * Few characters: `4.2K`.
 * @param {number} value
 */
export function brief(value) {
  return compact.format(value);
}

/** @param {number | null | undefined} value */
export function rate(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value >= 100) return whole.format(value);
  return value < 1 ? small.format(value) : short.format(value);
}

/**
 * Binary units, as the configuration writes them.
 * @param {number | null | undefined} value
 */
export function bytes(value) {
  if (value === null || value === undefined) return UNKNOWN;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? whole.format(value) : short.format(value)} ${units[unit]}`;
}

/** @param {number | null | undefined} value */
export function micros(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value < 1000) return `${whole.format(value)} µs`;
  return millis(value / 1000);
}

/** @param {number | null | undefined} value */
export function millis(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value < 1000) return `${short.format(value)} ms`;
  return seconds(value / 1000);
}

/** @param {number | null | undefined} value */
export function seconds(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value < 100) return `${short.format(value)} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h${minutes % 60 > 0 ? ` ${minutes % 60} min` : ''}` : `${whole.format(Math.floor(hours / 24))} d`;
}

/**
 * Time of day of a Unix time in milliseconds.
 * @param {number} at
 */
export function clock(at) {
  return new Date(at).toLocaleTimeString('en-GB');
}

/**
 * `1 message`, `2 messages`.
 * @param {number} number
 * @param {string} one
 * @param {string} [many]
 */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/**
 * With a large first letter, as a sentence begins.
 * @param {string} text
 */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/**
 * `n1, n2 and n3`.
 * @param {string[]} names
 */
export function list(names) {
  if (names.length < 2) return names.join('');
  return `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
}

/** Device numbers as stat(2) gives them. */

/** Major and minor of a device number below 2^32. Source: glibc's gnu_dev_major and gnu_dev_minor. */
export function splitDeviceNumber(dev: number): { readonly major: number; readonly minor: number } {
  return { major: (dev >>> 8) & 0xfff, minor: (dev & 0xff) | ((dev >>> 12) & 0xfff00) };
}

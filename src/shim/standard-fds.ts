/** Taking over the standard streams, which are closed one by one while the process lives on. */
import { asFd, dup, dupOnto, isOpen, O_RDWR, type OwnedFd, openFd } from "../sys/fd.ts";

/**
 * The stream under another number, and /dev/null in its place: it can then be closed when it has ended, and no file
 * that is opened later becomes somebody's standard error. Undefined when it was not open.
 */
export function takeStandardFd(number: 0 | 1 | 2): OwnedFd | undefined {
  const fd = asFd(number);
  const taken = isOpen(number) ? dup(fd) : undefined;
  using nothing = openFd("/dev/null", O_RDWR);
  if (nothing.fd === fd) nothing.release();
  else dupOnto(nothing.fd, fd);
  return taken;
}

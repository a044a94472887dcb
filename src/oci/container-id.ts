/** Container ids: what runc accepts, less what would be too long for a file name. */
import { HearthError } from "../errors.ts";
import { CONTAINER_ID_LENGTH_MAX } from "../limits.ts";

/** Letters, digits and `_ + - .`; the id is a directory's name, so `.` and `..` are not ids. */
const PATTERN = /^[\w+\-.]+$/;

/** Fails with invalid-argument naming the id, shortened. */
export function checkContainerId(id: string): void {
  if (id === "") throw new HearthError("invalid-argument", "container id cannot be empty");
  const shown = JSON.stringify(id.length > 40 ? `${id.slice(0, 40)}…` : id);
  if (!PATTERN.test(id) || id === "." || id === "..") {
    throw new HearthError("invalid-argument", `invalid container ID format: ${shown}`);
  }
  if (id.length > CONTAINER_ID_LENGTH_MAX) {
    throw new HearthError(
      "invalid-argument",
      `invalid container ID ${shown}: ${id.length} characters, at most ${CONTAINER_ID_LENGTH_MAX}`,
    );
  }
}

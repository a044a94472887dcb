/** Builds what is missing or out of date: the protocol code, the guest, and the one executable that carries it. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readlinkSync, renameSync, rmSync, statSync, symlinkSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import { zstdCompress } from "node:zlib";
import { promisify } from "node:util";
import { buildGuest } from "../guest/build.ts";
import { type GuestManifest, readManifest } from "../guest/manifest.ts";
import { lock } from "../src/sys/lock.ts";
import { mustRun, REPOSITORY, runCommand, StepError, step } from "./step.ts";

// What the scripts in JavaScript share.

import { createRequire } from "node:module";

/// Finds the clients in `NODE_PATH`, which `import` does not look at; tests/run installs them there.
export const require = createRequire(import.meta.url);

/// Prints what holds and ends the script at the first that does not.
export const checker = () => (what, holds) => {
  console.log(`${holds ? "ok" : "FAILED"} ${what}`);
  if (!holds) process.exit(1);
};

/// Whether the call fails with this status.
export const refused = (status, call) =>
  call.then(
    () => false,
    (error) => error.response?.status === status,
  );

/// The headers of a user.
export const user = (name) => ({ Authorization: `Basic ${btoa(`${name}:secret`)}` });

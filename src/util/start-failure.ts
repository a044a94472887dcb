/** What runc begins with when it cannot start a process for what the configuration asks for. Engines show it to their users as it is. */
export const START_FAILURE = "unable to start container process";

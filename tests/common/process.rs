//! Runs a test in a process of its own, for what belongs to the whole process: its peak memory, its limits.

use std::env;
use std::process::Command;

/// Environment variable of the process that carries out the test.
const CHILD_VARIABLE: &str = "SAPWOOD_TEST_INSIDE";

/// Runs `body` in a process that runs nothing but the calling test, and fails if that fails. `test` is the test's full name, as
/// the test program lists it.
#[track_caller]
pub fn in_own_process(test: &str, body: impl FnOnce()) {
    if env::var(CHILD_VARIABLE).is_ok_and(|name| name == test) {
        return body();
    }
    let program = env::current_exe().expect("a running test has a program");
    let output = Command::new(program).args([test, "--exact", "--nocapture"]).env(CHILD_VARIABLE, test).output();
    let output = output.expect("the test program starts again");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{test} in its own process: {text}");
}

//! SIGKILL before every system call of ADD and DEL that could change anything: what the runtime does next leaves
//! nothing behind. As root, on the real kernel, with a pretended agent.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::mem::{MaybeUninit, size_of};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use common::{Container, Node, Runtime};
use serde_json::Value;

/// Beyond this many calls something is wrong with the test.
const MOST: usize = 300;

#[test]
fn an_add_that_is_killed_anywhere_is_repeated_or_deleted_without_a_trace() {
    let node = Node::new();
    let runtime = node.runtime();
    for step in 0..MOST {
        let pod = Container::new(&format!("c{step}"));
        let killed = killed_before(step, &runtime, "ADD", &pod, &runtime.conf);
        if step % 2 == 1 {
            let result = runtime.add(&pod).unwrap();
            runtime.check(&pod, &result).unwrap();
        }
        runtime.del(&pod).unwrap();
        runtime.del_without_netns(&pod).unwrap();
        nothing_left(&node, &pod, step);
        if !killed {
            assert!(step > 12, "only {step} calls were seen");
            return;
        }
    }
    panic!("ADD made more than {MOST} calls");
}

#[test]
fn a_del_that_is_killed_anywhere_is_repeated() {
    let node = Node::new();
    let runtime = node.runtime();
    for step in 0..MOST {
        let pod = Container::new(&format!("c{step}"));
        let conf = with_result(&runtime.conf, runtime.add(&pod).unwrap());
        let killed = killed_before(step, &runtime, "DEL", &pod, &conf);
        if step % 2 == 1 {
            runtime.del(&pod).unwrap();
        }
        runtime.del_without_netns(&pod).unwrap();
        nothing_left(&node, &pod, step);
        if !killed {
            assert!(step > 5, "only {step} calls were seen");
            return;
        }
    }
    panic!("DEL made more than {MOST} calls");
}

#[test]
fn a_del_without_an_agent_that_is_killed_anywhere_leaves_one_whole_file() {
    let mut node = Node::new();
    for step in 0..MOST {
        let pod = Container::new(&format!("c{step}"));
        node.stop_felix();
        node.start_felix();
        let conf = with_result(&node.runtime().conf, node.runtime().add(&pod).unwrap());
        node.stop_felix();
        let killed = killed_before(step, &node.runtime(), "DEL", &pod, &conf);
        node.runtime().call("DEL", &pod.id, &pod.path, &conf).unwrap();

        let queue = node.directory.join("cni-del");
        let names: Vec<_> = fs::read_dir(&queue).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [pod.id.as_str()], "step {step}");
        assert_eq!(node.pod_links(), [""; 0], "step {step}");
        fs::remove_dir_all(queue).unwrap();
        if !killed {
            return;
        }
    }
    panic!("DEL made more than {MOST} calls");
}

fn with_result(conf: &Value, result: Value) -> Value {
    let mut conf = conf.clone();
    conf["prevResult"] = result;
    conf
}

fn nothing_left(node: &Node, pod: &Container, step: usize) {
    assert_eq!(node.pod_links(), [""; 0], "step {step}");
    assert!(!node.directory.join("cni-del").exists(), "step {step}");
    let felix = node.felix();
    assert!(felix.addresses.is_empty(), "step {step}: {:?}", felix.addresses);
    assert!(felix.endpoints.is_empty(), "step {step}: {:?} after {}", felix.endpoints, pod.id);
}

/// Runs a verb and kills it when it is about to make its `step`th call that could change anything. False: it ended
/// before.
#[allow(clippy::zombie_processes, reason = "waiting for a stop also reaps the process that ended")]
fn killed_before(step: usize, runtime: &Runtime<'_>, verb: &str, pod: &Container, conf: &Value) -> bool {
    // Whoever starts a process traces it; all of it happens on one thread.
    runtime.node.inside(|| {
        let mut child = traced(runtime, verb, pod, conf);
        let mut seen = 0;
        let mut thread = child.id() as libc::pid_t;
        loop {
            let (stopped, stop) = next_stop(&child, thread);
            thread = stopped;
            match stop {
                Stop::Ended => return false,
                Stop::Call(number) if CHANGING.contains(&number) => {
                    if seen == step {
                        kill(&mut child);
                        return true;
                    }
                    seen += 1;
                }
                Stop::Call(_) | Stop::Other => {}
            }
        }
    })
}

/// System calls that reach the kernel's network, a file or the agent.
const CHANGING: [libc::c_long; 9] = [
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_connect,
    libc::SYS_write,
    libc::SYS_openat,
    libc::SYS_mkdirat,
    libc::SYS_renameat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(not(target_arch = "x86_64"))]
    libc::SYS_renameat,
    libc::SYS_setns,
];

enum Stop {
    /// It is about to make this call.
    Call(libc::c_long),
    Other,
    Ended,
}

fn traced(runtime: &Runtime<'_>, verb: &str, pod: &Container, conf: &Value) -> Child {
    let mut command = Command::new(&runtime.binary);
    command
        .env_clear()
        .envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", &pod.id), ("CNI_NETNS", &pod.path)])
        .envs([
            ("CNI_IFNAME", &runtime.interface),
            ("CNI_ARGS", &runtime.args),
            ("CNI_PATH", &runtime.cni_path),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let trace_me = || {
        // SAFETY: a plain system call, allowed between fork and exec.
        match unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call and touches no memory of the parent.
    let mut child = unsafe { command.pre_exec(trace_me) }.spawn().unwrap();
    child.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
    // It stops once it has been replaced by the plugin.
    assert!(libc::WIFSTOPPED(wait_for(&child)));
    let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
    // SAFETY: the child is stopped and ours; no memory is involved.
    let set = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child.id() as libc::pid_t, 0, options) };
    assert_eq!(set, 0);
    child
}

/// The end of a process is told when those of its threads have been taken note of.
fn kill(child: &mut Child) {
    child.kill().unwrap();
    // SAFETY: no status is asked for. Only what this thread has started is waited for.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL | libc::__WNOTHREAD) } > 0 {}
}

fn wait_for(child: &Child) -> libc::c_int {
    let mut status = 0;
    // SAFETY: `status` is ours to write to.
    let waited = unsafe { libc::waitpid(child.id() as libc::pid_t, &raw mut status, 0) };
    assert_eq!(waited, child.id() as libc::pid_t);
    status
}

/// Lets the stopped `thread` go on; returns which one of the process stops next, and why.
fn next_stop(child: &Child, mut thread: libc::pid_t) -> (libc::pid_t, Stop) {
    let process = child.id() as libc::pid_t;
    let mut status = 0;
    loop {
        // SAFETY: the thread is stopped and ours, or gone; no memory is involved.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, thread, 0, 0) };
        // SAFETY: `status` is ours to write to. Only what this thread has started is waited for.
        thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        assert!(thread > 0, "nothing is left to wait for");
        let is_thread_end = !libc::WIFSTOPPED(status) && thread != process;
        if !is_thread_end {
            break;
        }
    }
    if !libc::WIFSTOPPED(status) {
        return (thread, Stop::Ended);
    }
    if libc::WSTOPSIG(status) != libc::SIGTRAP | 0x80 {
        return (thread, Stop::Other);
    }
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `size` bytes to `info`, for which zeroes are a valid value.
    let info = unsafe {
        libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, info.as_mut_ptr());
        info.assume_init()
    };
    let stop = match info.op {
        // SAFETY: at an entry the kernel has filled in this member.
        libc::PTRACE_SYSCALL_INFO_ENTRY => Stop::Call(unsafe { info.u.entry.nr } as libc::c_long),
        _ => Stop::Other,
    };
    (thread, stop)
}

//! `tidelock explain CODE`: one page per error.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::{
    Output,
    failure::{Exit, Failure, Outcome},
};

/// Explain an error code, or list them all
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Such as E0020; all codes if left out
    code: Option<String>,
}

/// What a code means, for good.
pub(crate) struct Page {
    pub(crate) code: &'static str,
    pub(crate) exit: Exit,
    title: &'static str,
    text: &'static str,
}

#[derive(Serialize)]
struct PageJson {
    code: &'static str,
    exit_code: u8,
    title: &'static str,
    text: &'static str,
}

impl Explain {
    pub(crate) fn run(&self, out: &Output) -> Outcome {
        let Some(code) = &self.code else {
            let rows: Vec<PageJson> = PAGES.iter().map(Page::json).collect();
            return out.list(
                &rows,
                |row| row.code.to_owned(),
                &["CODE", "EXIT", "MEANS"],
                |row| {
                    vec![
                        row.code.to_owned(),
                        row.exit_code.to_string(),
                        row.title.to_owned(),
                    ]
                },
            );
        };
        let page = page(&code.to_uppercase()).ok_or_else(|| {
            Failure::new("E0004", format!("{code}: there is no such error code"))
                .next("tidelock explain", "list all codes")
        })?;
        let mut text = format!("{}: {}\n\n", page.code, page.title);
        for line in page.text.lines() {
            let _ = writeln!(text, "{}", line.trim());
        }
        let _ = write!(text, "\nExit code {}.", page.exit as u8);
        out.one(&page.json(), page.code, &text)
    }
}

impl Page {
    fn json(&self) -> PageJson {
        PageJson {
            code: self.code,
            exit_code: self.exit as u8,
            title: self.title,
            text: self.text.trim(),
        }
    }
}

/// The page of a code.
pub(crate) fn page(code: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.code == code)
}

macro_rules! pages {
    ($($code:literal $exit:ident $title:literal $text:literal)*) => {
        &[$(Page { code: $code, exit: Exit::$exit, title: $title, text: $text }),*]
    };
}

const PAGES: &[Page] = pages! {
"E0001" Failed "something went wrong that has no code of its own"
"The message says what. If it looks like a mistake of Tidelock's and not of this machine, a bug report
with the command and the message is welcome."

"E0002" Usage "the command was called wrong"
"An argument is missing, unknown or out of range. `tidelock help COMMAND` shows what is possible."

"E0003" Usage "the configuration cannot be used"
"A value in a configuration file, a flag or a TIDELOCK_… variable cannot be used, or has an unknown name.
`tidelock config template` prints a complete file with all names and defaults; once all can be used,
`tidelock config show` prints each value with where it came from."

"E0004" Missing "there is no such error code"
"Codes are `E` and four digits. `tidelock explain` without a code lists them."

"E0010" Unreachable "no cluster was chosen"
"Commands about a running cluster need an operator's credentials. They are looked for in --context DIR,
then in TIDELOCK_CONTEXT, then in the user's default, which `tidelock dev` sets, then where a control plane
of this user keeps them that was given no --state-dir. A control plane writes them into the folder `operator`
of its state directory when it starts."

"E0011" Unreachable "the control plane cannot be reached"
"It may have ended, its machine may be unreachable, or the credentials belong to a cluster that is
gone. `tidelock control` with the state directory that it had brings it back with all it knew. Running
processes are not affected: the control plane is off the data path. `ps`, `show`, `kill`, `logs` and `events`
ask the nodes without it, if these credentials were used before."

"E0012" Unreachable "a node is not there, or does not answer on its admin port"
"A node that has left has taken its processes with it for good. One that was lost has not been heard of by
control, and does not answer here: its processes may still run, as its links and sessions do not depend on
control. Or control believes the node to be there, but its admin port does not answer: it may have just ended,
or a firewall stands between. Nodes talk to each other over another port, so they may be fine. Or another node
answers at that address now, and nothing was asked of it."

"E0013" Refused "the credentials were not accepted"
"The certificate is of another cluster, has expired, or has not the role that was needed. Operators'
credentials are written by the control plane into the folder `operator` of its state directory."

"E0014" Usage "a node has neither a token nor an identity"
"The first start needs a join token, in TIDELOCK_TOKEN or --token. It gets a certificate for it, which is
saved in the state directory and used by later starts, whatever token is still set. If it is saved elsewhere,
--state-dir says where."

"E0020" Missing "there is no such process"
"A pid is `n3.42`: node, then a number that is never used again. A process that ended is kept for a
while for those who ask why; after that only the events know of it. A pid of a node that was lost
stays nobody's for ever, even if its machine comes back: it comes back as another node."

"E0021" Missing "there is no such node"
"Nodes are named `n3` or by their stable name. `tidelock nodes` lists them. A machine that rejoined has
a new id, so that an old pid can never mean a new process. What is the id of one node and the name of another
names neither: one is named by its name then, the other by its id."

"E0022" Missing "there is no such module"
"Modules are named by their hash (`b3:…`), by its beginning with four digits or more, or by the name they
were deployed under. A beginning that several share names none of them. `tidelock modules` lists them,
`tidelock deploy FILE` adds one."

"E0023" Missing "there is no such file"
"Paths are relative to the current directory."

"E0024" Failed "a file cannot be read or written"
"The message has the operating system's reason."

"E0030" Failed "the file is not a module that can run"
"It must be a core WebAssembly module, binary (.wasm) or text (.wat), that imports only what the
runtime offers. Rust guests are built with `cargo build --release --target wasm32-wasip1`. `tidelock dev` without a file
does that in its folder, unless that is a project which cannot be a guest: name a file then, or go to another folder."

"E0032" Refused "the process could not be started"
"The node is full, is draining, has no directory that the process was to use, or the module has no such entry
function. The message says which. In Tidelock a spawn that fails has not executed one instruction."

"E0033" Failed "the guest did not end by itself"
"It trapped, was killed, reached a limit, or ended because a process it was linked to did. The exit code
is 101 for a trap and 137 for a kill. A Rust guest that panicked has said why on stderr before.
`die_when_link_dies(false)` turns the ends of linked processes into messages."

"E0034" Failed "a test of the module is not understood"
"Tests are exports whose names begin with `#lunatic_test_` and go on with what is expected and a path.
This one goes on otherwise: it may be meant for a later version of Tidelock. No test was run, because
leaving one out would look like success."

"E0035" Failed "the ordinary tests of a test binary cannot be listed"
"The module has exported tests and the main function of Rust's own test harness, which was asked for the
`#[test]` functions beside them. It ended otherwise than expected. No test was run."

"E0040" TimedOut "it took too long"
"Nothing is known about the outcome. `tidelock ps` and `tidelock events` show the state of affairs."

"E0041" Failed "a daemon did not become ready"
"A control plane or node started by this command ended or stayed silent. Its last words are in the
message."

"E0042" Failed "a daemon ended unexpectedly"
"A control plane or node started by this command has ended before its work was done. Its last words
are in the message."

"E0043" Failed "a daemon cannot start"
"Its address may be in use, its state directory may be another's (node, cluster or user), or the control
plane did not let it join. The message says which. Two daemons on one machine need a --state-dir and addresses
of their own each."

"E0044" Failed "the system allows too few open files"
"Every connection is an open file, and so is each file of a guest. The limit is set where the command is
started: by `ulimit -n` in a shell, by `LimitNOFILE=` in a unit of systemd."

"E0050" Failed "there is too little text for the demonstration"
"The demonstration kills a node in the middle of the work. With too little text the work would be over
before, and nothing would be shown. Name more or larger files."

"E0051" Failed "the demonstration did not come out as promised"
"One of its checks failed: the node did not die when it was killed, was not killed in the middle of the
work, a loss was not told exactly once, lost work was not done again elsewhere, or the counts
differ from those of this machine alone. The verdicts name which."

"E0052" Failed "the guest of the demonstration ended early"
"It trapped or gave an exit code before it printed a result. Its last output is in the message."

"E0053" Failed "operations of the bench were lost"
"Not everything that was begun came to its end, and a figure of the rest would hide that. A node may have
been lost meanwhile, or a process ended. If neither is so it is a mistake of Tidelock's."

"E0054" Failed "the bench was not completed"
"Its guest ended before it had a result, or found something that was not as it must be: a message twice or
out of order, a child that is not the one that was made, an end that was not told. Or lines of it are missing that
a figure needs: its node had no room for them any more. The message says which."

"E1001" Usage "the server could not understand the request"
"A field is missing or out of range. If the command line made the request, the versions of the two
may be too far apart: `tidelock nodes` shows the versions."

"E1002" Refused "the join token was not accepted"
"It is wrong, was used already, or has expired; on purpose the answer does not say which. Make a new
one with `tidelock token`. Tokens are for one node and an hour unless asked otherwise."

"E1003" Refused "the certificate has not the role that this needs"
"Nodes and operators have different certificates; some requests are for one of them only. One that has run
out counts for nothing, and neither does that of a node which an operator has removed: such a node comes
back with a new token."

"E1004" Refused "too many attempts"
"The server limits how often this can be tried. The same request may succeed later."

"E1005" Missing "the control plane knows no such thing"
"The node, module or path does not exist there."

"E1006" Refused "the body is larger than the server takes"
"A module has 64 MiB at the most, other requests far less, and no setting changes that: the message says how many
bytes were allowed. Nothing was stored. The move is that of whoever sent it: make the module smaller, say by building
it without debug information (`cargo build --release`, `strip = true`)."

"E1007" Refused "the signing request was not accepted"
"It is malformed, its signature is wrong, or its key is too weak. The node makes these itself; removing
its saved identity and joining with a new token makes a new key."

"E1008" Refused "the node has been declared lost, or has left"
"It was silent for longer than its lease, an operator has removed it, or a later start has its name. Its
sessions are over, and its daemon leaves and ends with this code. Started again it gets a new id; one that was
removed needs a new token for that. One whose name has a later start is to stay ended as long as that runs:
the two would replace each other without end."

"E1009" Refused "the module was not accepted"
"It is no WebAssembly core module, its bytes do not have the hash they were sent under, or its short id is taken by
another module. Or the cluster holds 16 GiB of modules already, which is all that it may. Nothing is taken away from
them, so trying again does not help: those it holds can be used and deployed again, and another one needs another
cluster."

"E1010" Failed "the control plane could not store the change"
"It was made completely or not at all, and asking again is harmless. The disk may be full or read-only, or the
books are a backup older than the node that asks, which is listed again when it is started again; the log of
control says more. Or the file of a module is damaged or gone: that lasts until the module is deployed again."

"E1011" Refused "a living node has this name"
"Names are for one node at a time. Either the other one leaves, or this one gets another name."

"E1012" Refused "a name has had too many node ids"
"Every start of a node takes an id that is never given back, so a name gets 120 of them within an hour. The move is
that of whoever runs the node: see in its log what starts it so often, mend that, and start it again when the first
of those ids is an hour old; or give it another name now. Neither trying again nor another token helps before."

"E1013" Refused "too many join tokens are open"
"The control plane keeps 10 000 that are neither used up nor expired. The move is the operators': use some of
those there are, or wait until some expire, which is after an hour unless `--ttl` said otherwise. One token lets in
many nodes with `tidelock token --uses N`."

"E1014" Refused "all node ids of the cluster are used up"
"There are 8 388 607, one for each start of a node, and none is given out twice. Waiting does not help. Nodes that are
there go on until they end. The move is the operators': whoever is to join needs a new cluster, which is a control
plane with an empty state directory."

"E1015" Refused "another start of this node came first"
"A node that starts says which start of its name it follows, so that a request that was held up on its way replaces
no later start. One that does not know of the newest, because it crashed or has an old copy of its state directory, is
told and asks again by itself, for half a minute. So this is seen only where somebody else starts under the same name
and key all the while: a copy of the state directory. Nothing was changed. The move is that of whoever runs the
two: end one, and give each machine a state directory and a name of its own."

"E1016" Refused "somebody else has deployed under this name meanwhile"
"A deploy says what it follows, so that a request that was held up on its way takes its name from no later one. Since
this one began another module was deployed under the name, which stands for that. This one is kept as well, by its
hash: `tidelock modules` shows both. Whoever still wants the name for it deploys it again."

"E2001" Missing "the node knows no such process"
"See E0020."

"E2002" Refused "the process could not be started"
"See E0032."

"E2003" Refused "the node is draining"
"It takes no new work and leaves when what runs there has ended. Choose another node."
};

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use tidelock_control::{
        api::codes,
        modules::{MODULE_BYTES_MAX, MODULES_BYTES_MAX},
    };

    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        assert!(PAGES.is_sorted_by(|a, b| a.code < b.code));
        for page in PAGES {
            assert!(
                page.code.len() == 5 && page.code.starts_with('E'),
                "{}",
                page.code
            );
            assert!(!page.title.ends_with('.'), "{}", page.code);
        }
    }

    #[test]
    fn what_control_refuses_a_module_and_a_start_for_is_explained() {
        let text = |code| page(code).map_or("", |page| page.text);
        let held = format!("{} GiB", MODULES_BYTES_MAX >> 30);
        assert!(text(codes::MODULE_REFUSED).contains(&held));
        let one = format!("{} MiB", MODULE_BYTES_MAX >> 20);
        assert!(text(codes::TOO_LARGE).contains(&one));
        assert!(text(codes::STORE).contains("deployed again"));
        assert!(text(codes::LATER_START).contains("state directory"));
        assert!(text(codes::LATER_DEPLOY).contains("deploys it again"));
    }

    /// A page that no error leads to explains what does not happen.
    #[test]
    fn every_page_is_of_an_error_that_there_is() {
        let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut code = String::new();
        for folder in ["src", "../control/src"] {
            read_all(&crate_dir.join(folder), &mut code);
        }
        let here = fs::read_to_string(crate_dir.join("src/cli/explain.rs")).unwrap();
        let api = fs::read_to_string(crate_dir.join("../control/src/api.rs")).unwrap();
        let constants = |line: &str| {
            let (name, value) = line
                .trim()
                .strip_prefix("pub const ")?
                .split_once(": &str = ")?;
            Some((value.trim_end_matches(';').to_owned(), name.to_owned()))
        };
        let constants: BTreeMap<String, String> = api.lines().filter_map(constants).collect();
        for page in PAGES {
            // As it is written where it is made, which is not here and not where codes have names.
            let quoted = format!("\"{}\"", page.code);
            let named = constants.get(&quoted);
            let is_made = named.is_some_and(|name| code.contains(&format!("codes::{name}")))
                || code.contains(&quoted)
                || here.contains(&format!("Failure::new({quoted}"));
            assert!(is_made, "{}", page.code);
        }
    }

    /// Adds the text of all files with code.
    fn read_all(folder: &Path, code: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read_all(&path, code);
            } else if path.extension().is_some_and(|ending| ending == "rs")
                && !path.ends_with("control/src/api.rs")
                && !path.ends_with("cli/explain.rs")
            {
                code.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
}

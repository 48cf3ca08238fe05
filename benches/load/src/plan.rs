//! What is to be done.

/// The kinds of operation, and what an operation of each is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One message, until the receiver has it.
    Message,
    /// One message there and back.
    Call,
    /// A process is made, runs, and its word has come back.
    Spawn,
    /// A link, until both ends hold it. It is removed again before the next.
    Link,
}

/// What each lane does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// The node of the partners; 0 is this one.
    pub(crate) node: u64,
    /// How many lanes there are.
    pub(crate) lanes: u64,
    /// Operations of one lane that are under way at once.
    pub(crate) under_way: u64,
    /// Bytes of a message.
    pub(crate) size: u64,
    /// Operations due in each second, of all lanes together; 0 is as many as can be done.
    pub(crate) rate: u64,
    /// For how long operations are begun.
    pub(crate) for_ns: u64,
    /// Not 0: that node is on this machine.
    pub(crate) near: u64,
}

/// Reads `name=number` words after the kind.
pub(crate) fn parse(words: &[String]) -> Result<Plan, String> {
    let (kind, rest) = words.split_first().ok_or("no kind")?;
    let mut plan = Plan {
        kind: kind_named(kind)?,
        node: 0,
        lanes: 1,
        under_way: 1,
        size: 64,
        rate: 0,
        for_ns: 1_000_000_000,
        near: 0,
    };
    for word in rest {
        let (name, number) = word.split_once('=').ok_or_else(|| format!("{word}?"))?;
        let number = number.parse().map_err(|_| format!("{word}: no number"))?;
        *place(&mut plan, name).ok_or_else(|| format!("{name}?"))? = number;
    }
    Ok(plan)
}

fn kind_named(name: &str) -> Result<Kind, String> {
    match name {
        "message" => Ok(Kind::Message),
        "call" => Ok(Kind::Call),
        "spawn" => Ok(Kind::Spawn),
        "link" => Ok(Kind::Link),
        _ => Err(format!("{name}: no such kind")),
    }
}

fn place<'a>(plan: &'a mut Plan, name: &str) -> Option<&'a mut u64> {
    Some(match name {
        "node" => &mut plan.node,
        "lanes" => &mut plan.lanes,
        "under-way" => &mut plan.under_way,
        "size" => &mut plan.size,
        "rate" => &mut plan.rate,
        "for-ns" => &mut plan.for_ns,
        "near" => &mut plan.near,
        _ => return None,
    })
}

impl Plan {
    /// As numbers, for a message to a lane.
    pub(crate) fn numbers(&self) -> [u64; 8] {
        [
            self.kind as u64,
            self.node,
            self.lanes,
            self.under_way,
            self.size,
            self.rate,
            self.for_ns,
            self.near,
        ]
    }

    /// Whether all processes read the same clock.
    pub(crate) fn one_clock(&self) -> bool {
        self.node == 0 || self.near != 0
    }

    /// Reads what [`Plan::numbers`] gave.
    pub(crate) fn of(numbers: &[u64]) -> Self {
        let kinds = [Kind::Message, Kind::Call, Kind::Spawn, Kind::Link];
        Plan {
            kind: kinds[numbers[0] as usize],
            node: numbers[1],
            lanes: numbers[2],
            under_way: numbers[3],
            size: numbers[4],
            rate: numbers[5],
            for_ns: numbers[6],
            near: numbers[7],
        }
    }
}

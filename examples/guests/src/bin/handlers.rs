//! Accounts that handle messages instead of receiving them.
//!
//!     tidelock run handlers.wasm 1000
//!
//! Each account is a process. Once its first function has returned, it waits without a stack of its own and
//! the host calls its handler with each message, so many of them take little memory.

use std::time::Duration;

use tidelock_guest::{
    handle, me, monitor, receive, request, send, spawn, Data, Next, Pid, Received,
};

const PAY: i64 = 1;
const BALANCE: i64 = 2;
const CLOSE: i64 = 3;
const ANSWER: i64 = 4;

const PATIENCE: Option<Duration> = Some(Duration::from_secs(10));

struct Account {
    bank: Pid,
    balance: u64,
}

fn main() {
    let count: u64 = std::env::args()
        .nth(1)
        .map_or(100, |count| count.parse().expect("a number of accounts"));
    let accounts: Vec<Pid> = (0..count)
        .map(|_| spawn(account, me().raw()).expect("this node has room for one more"))
        .collect();
    for amount in 1..=3 {
        for account in &accounts {
            send(*account, PAY, &[amount]);
        }
    }
    let total: u64 = accounts.iter().map(|account| balance(*account)).sum();

    // One that is closed ends normally, and only that one.
    monitor(accounts[0]);
    send(accounts[0], CLOSE, &[]);
    match receive(&[], PATIENCE) {
        Received::Down(down) => assert!(down.pid == accounts[0] && down.reason.is_normal()),
        other => panic!("{other:?}"),
    }
    assert!(accounts[1..].iter().all(|account| balance(*account) == 6));
    println!("{count} accounts hold {total}");
}

fn balance(account: Pid) -> u64 {
    match request(account, BALANCE, &[], ANSWER, PATIENCE) {
        Received::Data(Data { bytes, .. }) => {
            u64::from_le_bytes(bytes.try_into().expect("a number"))
        }
        other => panic!("{other:?}"),
    }
}

fn account(bank: u64) {
    let bank = Pid::from_raw(bank).expect("the bank passed its pid");
    handle(Account { bank, balance: 0 }, handle_message);
}

fn handle_message(account: &mut Account, received: Received) -> Next {
    let Received::Data(Data { tag, bytes }) = received else {
        return Next::Continue;
    };
    match tag {
        PAY => account.balance += u64::from(bytes[0]),
        BALANCE => send(account.bank, ANSWER, &account.balance.to_le_bytes()),
        _ => return Next::Stop,
    }
    Next::Continue
}

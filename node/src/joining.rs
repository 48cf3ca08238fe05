//! How a node gets in: with the identity of an earlier start, or with a join token if control takes no such identity.
//!
//! The identity is kept in the state directory, which one node at a time uses.

#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::path::Path;

use tidelock_certs::Identity;
use tidelock_control::api::codes;
use tidelock_control::client::{Client, ClientError, Joined, NodeDescription};

use crate::{NodeConfig, StartError};

pub(crate) async fn join(
    config: &NodeConfig,
    node: &NodeDescription,
) -> Result<Joined, StartError> {
    if let Some(dir) = &config.state_dir {
        // A token is spent with the answer, and an identity that cannot be kept would be lost.
        Identity::check_room(&dir.join("identity")).map_err(|error| unwritable(dir, &error))?;
    }
    let saved = saved(config);
    let Some(token) = &config.token else {
        let (dir, identity) = saved?;
        let name = &identity.name().name;
        if *name != node.name {
            return Err(StartError::OtherName {
                dir: dir.display().to_string(),
                name: name.clone(),
            });
        }
        return Ok(Client::rejoin(&config.control, &identity, node).await?);
    };
    // The token may be an old one that is still set, and whom control knows needs none.
    if let Ok((_, identity)) = saved
        && identity.name().name == node.name
    {
        match Client::rejoin(&config.control, &identity, node).await {
            Err(error) if is_refused(&error) => {
                tracing::warn!(%error, "the saved identity is of no use; joining with the token");
            }
            rejoined => return Ok(rejoined?),
        }
    }
    Ok(Client::join(&config.control, token, node).await?)
}

/// Whether control wants nothing to do with whoever asked, as opposed to not being there, being busy or at
/// fault, having seen too much of that name, or knowing of a later start of it: a token would not help then.
fn is_refused(error: &ClientError) -> bool {
    let refused = matches!(
        error,
        ClientError::NotTrusted { .. }
            | ClientError::Refused {
                status: 400..=499,
                ..
            }
    );
    let of_the_name = [
        codes::TOO_MANY_IDS,
        codes::NO_IDS_LEFT,
        codes::LATER_START,
        codes::NODE_GONE,
    ];
    let is_of_the_name = error.code().is_some_and(|code| of_the_name.contains(&code));
    refused && !error.is_temporary() && !is_of_the_name
}

/// The identity of an earlier start, and the state directory that it is from.
fn saved(config: &NodeConfig) -> Result<(&Path, Identity), StartError> {
    let missing = |dir: String, why: String| StartError::NoIdentity { dir, why };
    let Some(dir) = &config.state_dir else {
        return Err(missing(
            "nowhere".into(),
            "no state directory is set".into(),
        ));
    };
    match Identity::load(&dir.join("identity")) {
        Ok(identity) => Ok((dir.as_path(), identity)),
        Err(error) => Err(missing(dir.display().to_string(), error.to_string())),
    }
}

/// Takes the state directory for as long as the file is open: two nodes would overwrite each other's
/// identity.
pub(crate) fn lock_state(dir: &Path) -> Result<File, StartError> {
    let shown = || dir.display().to_string();
    let unusable = |error: std::io::Error| StartError::State {
        dir: shown(),
        why: error.to_string(),
    };
    tidelock_certs::files::create_private_dir(dir).map_err(unusable)?;
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    let file = options.open(dir.join("lock")).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::StateInUse { dir: shown() }),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

pub(crate) fn save(dir: &Path, identity: &Identity) -> Result<(), StartError> {
    let saved = identity.save(&dir.join("identity"));
    saved.map_err(|error| unwritable(dir, &error))
}

fn unwritable(dir: &Path, error: &tidelock_certs::IdentityError) -> StartError {
    StartError::State {
        dir: dir.display().to_string(),
        why: error.to_string(),
    }
}

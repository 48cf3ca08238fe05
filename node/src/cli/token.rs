//! `tidelock token`.

use std::time::Duration;

use clap::Args;

use super::{Output, connect::Cluster, failure::Outcome};

/// Make a token that lets a new node join
#[derive(Debug, Args)]
pub(crate) struct Token {
    /// How long it can be used, such as 10m or 2h
    #[arg(long, default_value = "1h", value_parser = lifetime)]
    ttl: Duration,
    /// How many nodes may join with it
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
}

impl Token {
    pub(crate) async fn run(&self, out: &Output, cluster: &Cluster) -> Outcome {
        let created = cluster.token(self.ttl, self.uses).await?;
        out.one(&created, &created.token, &created.token)?;
        if !out.machine() {
            out.say(format_args!(
                "Good for {} until {}; it is not shown again.\n  next: tidelock node --join {}    \
                 with TIDELOCK_TOKEN set to it",
                if self.uses == 1 {
                    "one node".to_owned()
                } else {
                    format!("{} nodes", self.uses)
                },
                created.expires_at.strftime("%Y-%m-%d %H:%M UTC"),
                cluster.address(),
            ));
        }
        Ok(())
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("nobody could join with it".to_owned()),
        parsed => parsed.map_err(|error| error.to_string()),
    }
}

//! What tenants share, so that no one takes the part of another.

use std::collections::BTreeMap;

use tidelock_proto::Environ;

/// One tenant of those that share a bound has at most such a part of it.
const SHARE: usize = 10;

/// How much one tenant may have. The default tenant may take all of it. All others together may take as much, and each of
/// those a tenth.
pub(crate) fn share(environ: Environ, max: usize) -> usize {
    if environ == Environ::default() {
        max
    } else {
        max.div_ceil(SHARE)
    }
}

/// The bound that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// What this tenant may have.
    Own(usize),
    /// What all tenants but the default one may have together.
    Others(usize),
}

impl Full {
    /// How much that is.
    pub(crate) fn max(self) -> usize {
        match self {
            Full::Own(max) | Full::Others(max) => max,
        }
    }
}

/// Whether a tenant that has `own` may have `more`, while all but the default one have `others`.
pub(crate) fn fits(
    environ: Environ,
    (own, others): (usize, usize),
    more: usize,
    max: usize,
) -> Result<(), Full> {
    let share = share(environ, max);
    if own + more > share {
        return Err(Full::Own(share));
    }
    if environ != Environ::default() && others + more > max {
        return Err(Full::Others(max));
    }
    Ok(())
}

/// How much of something each tenant has.
#[derive(Debug)]
pub(crate) struct Shares {
    max: usize,
    /// Of all but the default tenant together.
    others: usize,
    /// Of each that has any.
    by_tenant: BTreeMap<Environ, usize>,
}

impl Shares {
    pub(crate) const fn new(max: usize) -> Self {
        Shares {
            max,
            others: 0,
            by_tenant: BTreeMap::new(),
        }
    }

    /// Takes so much for a tenant, to be given back by [`Shares::give_back`]; or nothing.
    pub(crate) fn take(&mut self, environ: Environ, more: usize) -> Result<(), Full> {
        let own = self.by_tenant.get(&environ).copied().unwrap_or(0);
        fits(environ, (own, self.others), more, self.max)?;
        self.set(environ, own + more);
        if environ != Environ::default() {
            self.others += more;
        }
        Ok(())
    }

    /// Gives back what was taken.
    pub(crate) fn give_back(&mut self, environ: Environ, less: usize) {
        let own = self.by_tenant.get(&environ).copied().unwrap_or(0);
        self.set(environ, own - less);
        if environ != Environ::default() {
            self.others -= less;
        }
    }

    fn set(&mut self, environ: Environ, own: usize) {
        match own {
            0 => self.by_tenant.remove(&environ),
            _ => self.by_tenant.insert(environ, own),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_for_each_and_all_of_it_for_the_default() {
        let (default, one, other) = (Environ::default(), Environ(7), Environ(8));
        let mut shares = Shares::new(11);
        assert_eq!(shares.take(default, 11), Ok(()));
        assert_eq!(shares.take(default, 1), Err(Full::Own(11)));
        assert_eq!(shares.take(one, 2), Ok(()));
        assert_eq!(shares.take(one, 1), Err(Full::Own(2)));
        for tenant in 8..12 {
            assert_eq!(shares.take(Environ(tenant), 2), Ok(()));
        }
        assert_eq!(shares.take(Environ(12), 2), Err(Full::Others(11)));
        assert_eq!(shares.take(Environ(12), 1), Ok(()));
        shares.give_back(one, 2);
        assert_eq!(shares.take(Environ(13), 2), Ok(()));
        shares.give_back(other, 1);
        shares.give_back(other, 1);
        assert!(!shares.by_tenant.contains_key(&other), "nothing is kept");
        assert_eq!(shares.others, 9);
    }
}

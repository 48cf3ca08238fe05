//! Certificates for guests: the part of `lunatic::distributed` that has nothing to do with nodes.
//!
//! What goes back is in the encoding of Lunatic's guests, a text being its length in eight bytes and
//! itself, in memory that the guest's `lunatic_alloc` has given.

use std::sync::Arc;

use super::{Call, Caller, Linker, Result, waits};
use crate::{CertificatePair, Certificates};

pub(super) fn link(linker: &mut Linker) -> Result<()> {
    waits! { linker, "lunatic::distributed";
        "test_root_cert" => test_root_cert(len_ptr: u32);
        "default_server_certificates" => default_server_certificates(
            cert_ptr: u32, cert_len: u32, key_ptr: u32, key_len: u32, len_ptr: u32
        );
        "sign_node" => sign_node(
            cert_ptr: u32, cert_len: u32, key_ptr: u32, key_len: u32,
            csr_ptr: u32, csr_len: u32, len_ptr: u32
        );
    }
    Ok(())
}

impl Call<'_> {
    fn certificates(&mut self) -> Result<Arc<dyn Certificates>> {
        let environment = self.state().context.environment();
        let certificates = environment.certificates().cloned();
        certificates.ok_or_else(|| self.trap("this program makes no certificates for guests"))
    }

    fn pem(&mut self, arg: &str, ptr: u32, len: u32) -> Result<String> {
        let max = self.certificates()?.input_bytes_max();
        if len as usize > max {
            return Err(self.trap(format_args!("{arg}: more than {max} bytes")));
        }
        self.text(arg, ptr, len)
    }

    fn root(&mut self, cert: (u32, u32), key: (u32, u32)) -> Result<CertificatePair> {
        Ok(CertificatePair {
            certificate: self.pem("cert_ptr", cert.0, cert.1)?,
            key: self.pem("key_ptr", key.0, key.1)?,
        })
    }

    /// Makes texts on a thread that may be busy for a while, and gives them to the guest.
    async fn make<const N: usize>(
        &mut self,
        len_ptr: u32,
        work: impl FnOnce(&dyn Certificates) -> std::result::Result<[String; N], String>
        + Send
        + 'static,
    ) -> Result<u32> {
        let certificates = self.certificates()?;
        let made = tokio::task::spawn_blocking(move || work(&*certificates)).await;
        let made = made.unwrap_or_else(|error| Err(error.to_string()));
        let texts = made.map_err(|error| self.trap(error))?;
        let mut bytes = Vec::new();
        for text in &texts {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        self.give("len_ptr", len_ptr, &bytes).await
    }
}

fn both(pair: CertificatePair) -> [String; 2] {
    [pair.certificate, pair.key]
}

async fn test_root_cert(mut call: Call<'_>, len_ptr: u32) -> Result<u32> {
    call.make(len_ptr, |certificates| Ok(both(certificates.test_root())))
        .await
}

async fn default_server_certificates(
    mut call: Call<'_>,
    cert_ptr: u32,
    cert_len: u32,
    key_ptr: u32,
    key_len: u32,
    len_ptr: u32,
) -> Result<u32> {
    let root = call.root((cert_ptr, cert_len), (key_ptr, key_len))?;
    call.make(len_ptr, move |certificates| {
        certificates.server(&root).map(both)
    })
    .await
}

#[allow(clippy::too_many_arguments, reason = "the guest's signature")]
async fn sign_node(
    mut call: Call<'_>,
    cert_ptr: u32,
    cert_len: u32,
    key_ptr: u32,
    key_len: u32,
    csr_ptr: u32,
    csr_len: u32,
    len_ptr: u32,
) -> Result<u32> {
    let root = call.root((cert_ptr, cert_len), (key_ptr, key_len))?;
    let request = call.pem("csr_ptr", csr_ptr, csr_len)?;
    call.make(len_ptr, move |certificates| {
        certificates.sign(&root, &request).map(|signed| [signed])
    })
    .await
}

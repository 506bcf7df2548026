//! Whose signatures count, and whether a clear-signed text bears one of them.
//!
//! The rules are gpgv's: one good signature of a known key is enough, signatures of unknown keys say nothing, and a bad
//! signature of a known key spoils the text. A key counts only if its own binding holds, is not revoked and has not
//! expired; a subkey only if it is bound for signing, both ways. SHA-1 and MD5 count as no signature.

use std::fmt;

use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{PublicKey, Signature, SignatureType};
use pgp::types::{Fingerprint, KeyDetails, VerifyingKey};

use super::error::{Error, Result};

/// Public keys.
#[derive(Clone)]
pub struct Keyring {
    certificates: Vec<SignedPublicKey>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fingerprints()).finish()
    }
}

impl Keyring {
    /// Debian's own, as its package `debian-archive-keyring` has them (see keys/README.md).
    ///
    /// # Errors
    /// Never for the keys that are compiled in; a test reads them.
    pub fn debian() -> Result<Self> {
        Self::read(include_bytes!("keys/debian-archive-keyring.gpg"))
    }

    /// Keys in OpenPGP form, binary or armored.
    ///
    /// # Errors
    /// If it is not that, or holds no key.
    pub fn read(keys: &[u8]) -> Result<Self> {
        let wrong = |error: pgp::errors::Error| Error::Keyring {
            why: error.to_string(),
        };
        let certificates: Vec<SignedPublicKey> = if keys.starts_with(b"-----BEGIN") {
            SignedPublicKey::from_armor_many(keys)
                .map_err(wrong)?
                .0
                .collect::<std::result::Result<_, _>>()
        } else {
            SignedPublicKey::from_bytes_many(keys)
                .map_err(wrong)?
                .collect()
        }
        .map_err(wrong)?;
        if certificates.is_empty() {
            return Err(Error::Keyring {
                why: "it holds no key".to_owned(),
            });
        }
        Ok(Self { certificates })
    }

    /// The fingerprints of its primary keys, in upper-case hex.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        self.certificates
            .iter()
            .map(|certificate| hex(&certificate.primary_key.fingerprint()))
            .collect()
    }

    /// The text of a clear-signed message, if the message is signed by a key of this ring.
    pub(super) fn verified_text(&self, url: &str, message: &str, now_s: u64) -> Result<String> {
        let refused = |why: String| Error::Signature {
            url: url.to_owned(),
            why,
        };
        if !message.starts_with("-----BEGIN PGP SIGNED MESSAGE-----") {
            return Err(refused("it bears no signature".to_owned()));
        }
        let (message, _) = CleartextSignedMessage::from_string(message)
            .map_err(|error| refused(error.to_string()))?;
        let text = message.signed_text();
        let mut good = false;
        let mut reasons: Vec<String> = Vec::new();
        for signature in message.signatures() {
            match self.judge(signature, &text, now_s) {
                Judgement::Good => good = true,
                Judgement::Bad(why) => return Err(refused(why)),
                Judgement::Nothing(why) => reasons.push(why),
            }
        }
        if !good {
            reasons.dedup();
            let why = if reasons.is_empty() {
                "it bears no signature".to_owned()
            } else {
                reasons.join("; ")
            };
            return Err(refused(why));
        }
        Ok(text.replace("\r\n", "\n"))
    }

    fn judge(&self, signature: &Signature, text: &str, now_s: u64) -> Judgement {
        if !matches!(
            signature.typ(),
            Some(SignatureType::Text | SignatureType::Binary)
        ) {
            return Judgement::Nothing("its signature is not one of a text".to_owned());
        }
        let digest = signature.hash_alg();
        if !matches!(
            digest,
            Some(HashAlgorithm::Sha256 | HashAlgorithm::Sha384 | HashAlgorithm::Sha512)
        ) {
            return Judgement::Nothing(
                "its signature uses a digest that is broken or unknown".to_owned(),
            );
        }
        for certificate in &self.certificates {
            let primary = &certificate.primary_key;
            if made_by(signature, primary) {
                if let Some(why) = primary_fault(certificate, now_s) {
                    return Judgement::Nothing(format!(
                        "key {} {why}",
                        hex(&primary.fingerprint())
                    ));
                }
                return Judgement::of(signature, primary, text, now_s);
            }
            for subkey in &certificate.public_subkeys {
                if made_by(signature, &subkey.key) {
                    if let Some(why) = primary_fault(certificate, now_s)
                        .or_else(|| subkey_fault(subkey, primary, now_s))
                    {
                        return Judgement::Nothing(format!(
                            "key {} {why}",
                            hex(&subkey.key.fingerprint())
                        ));
                    }
                    return Judgement::of(signature, &subkey.key, text, now_s);
                }
            }
        }
        let issuer = signature
            .issuer_fingerprint()
            .first()
            .map(|print| hex(print));
        let issuer = issuer.or_else(|| {
            signature
                .issuer_key_id()
                .first()
                .map(|id| id.to_string().to_uppercase())
        });
        Judgement::Nothing(format!(
            "key {} is not known",
            issuer.unwrap_or_else(|| "without a name".to_owned())
        ))
    }
}

enum Judgement {
    Good,
    /// By a known key, and wrong.
    Bad(String),
    /// Of no weight, for this reason.
    Nothing(String),
}

impl Judgement {
    fn of(signature: &Signature, key: &impl VerifyingKey, text: &str, now_s: u64) -> Self {
        let name = hex(&key.fingerprint());
        if signature.verify(key, text.as_bytes()).is_err() {
            return Self::Bad(format!("the signature of key {name} does not fit the text"));
        }
        let made_s = signature
            .created()
            .map_or(0, |time| u64::from(time.as_secs()));
        match signature.signature_expiration_time() {
            Some(life)
                if u64::from(life.as_secs()) != 0
                    && made_s + u64::from(life.as_secs()) <= now_s =>
            {
                Self::Nothing(format!("the signature of key {name} has expired"))
            }
            _ => Self::Good,
        }
    }
}

fn made_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let prints = signature.issuer_fingerprint();
    if prints.is_empty() {
        signature
            .issuer_key_id()
            .iter()
            .any(|id| **id == key.legacy_key_id())
    } else {
        prints.iter().any(|print| **print == key.fingerprint())
    }
}

/// Why a certificate's primary key does not count.
fn primary_fault(certificate: &SignedPublicKey, now_s: u64) -> Option<&'static str> {
    let key = &certificate.primary_key;
    let details = &certificate.details;
    if details
        .revocation_signatures
        .iter()
        .any(|signature| signature.verify_key(key).is_ok())
    {
        return Some("is revoked");
    }
    let of_users = details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            made_by(signature, key)
                && signature.is_certification()
                && signature
                    .verify_certification(key, pgp::types::Tag::UserId, &user.id)
                    .is_ok()
        })
    });
    let direct = details
        .direct_signatures
        .iter()
        .filter(|signature| signature.verify_key(key).is_ok());
    match newest(of_users.chain(direct)) {
        None => Some("is not signed by itself"),
        Some(binding) if expired(binding, key, now_s) => Some("has expired"),
        Some(_) => None,
    }
}

/// Why a subkey does not count.
fn subkey_fault(
    subkey: &SignedPublicSubKey,
    primary: &PublicKey,
    now_s: u64,
) -> Option<&'static str> {
    let held: Vec<&Signature> = subkey
        .signatures
        .iter()
        .filter(|signature| {
            signature
                .verify_subkey_binding(primary, &subkey.key)
                .is_ok()
        })
        .collect();
    if held
        .iter()
        .any(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation))
    {
        return Some("is revoked");
    }
    let binding = newest(
        held.into_iter()
            .filter(|signature| signature.typ() == Some(SignatureType::SubkeyBinding)),
    );
    match binding {
        None => Some("is not bound to its primary key"),
        Some(binding) if !binding.key_flags().sign() => Some("is not for signing"),
        Some(binding) if expired(binding, &subkey.key, now_s) => Some("has expired"),
        Some(binding) => match binding.embedded_signature() {
            Some(back)
                if back
                    .verify_primary_key_binding(&subkey.key, primary)
                    .is_ok() =>
            {
                None
            }
            _ => Some("does not vouch for its primary key"),
        },
    }
}

fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures.max_by_key(|signature| signature.created().map_or(0, |time| time.as_secs()))
}

fn expired(binding: &Signature, key: &impl KeyDetails, now_s: u64) -> bool {
    match binding.key_expiration_time() {
        Some(life) if life.as_secs() != 0 => {
            u64::from(key.created_at().as_secs()) + u64::from(life.as_secs()) <= now_s
        }
        _ => false,
    }
}

fn hex(fingerprint: &Fingerprint) -> String {
    fingerprint
        .as_bytes()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_are_compiled_in_are_these() {
        assert_eq!(
            Keyring::debian().unwrap().fingerprints(),
            [
                "1F89983E0081FDE018F3CC9673A4F27B8DD47936",
                "AC530D520F2F3269F5E98313A48449044AAD5C5D",
                "A4285295FC7B1A81600062A9605C66F00D6C9793",
                "4D64FEC119C2029067D6E791F8D2585B8783D481",
                "B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8",
                "05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0",
                "04B54C3CDCA79751B16BC6B5225629DF75B188BD",
                "5E04A1E3223A19A20706E20F9904613D4CCE68C6",
                "41587F7DB8C774BCCF131416762F67A0B2C39DE4",
            ]
        );
    }

    #[test]
    fn what_is_no_keyring_is_said_so() {
        assert!(matches!(
            Keyring::read(b"hello"),
            Err(Error::Keyring { .. })
        ));
        assert!(matches!(Keyring::read(b""), Err(Error::Keyring { .. })));
    }
}

//! Private keys of SSH, and what is signed with them.

use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::sha2::{Sha256, Sha512};
use rsa::signature::{SignatureEncoding as _, Signer as _};
use rsa::{BigUint, RsaPrivateKey};
use ssh_key::private::{KeypairData, PrivateKey};
use ssh_key::public::{KeyData, PublicKey, RsaPublicKey};
use ssh_key::{Mpint, Signature};

use super::put;

/// Flags of a request to sign: which digest an RSA signature is made with. Without one it would be SHA-1.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// A private key that can sign.
pub struct Key {
    public: Vec<u8>,
    comment: String,
    signer: Signer,
}

enum Signer {
    Rsa(Box<RsaPrivateKey>),
    /// Ed25519 and ECDSA.
    Other(Box<PrivateKey>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({}, redacted)", self.comment)
    }
}

/// A file holds no private key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum KeyError {
    /// It is encrypted.
    #[error("the key `{name}` is protected by a passphrase, which nobody can be asked for here")]
    #[diagnostic(
        code(ssh::passphrase),
        help("add it to an agent (`ssh-add {name}`) and forward that: `--ssh default`")
    )]
    Encrypted {
        /// The file.
        name: String,
    },
    /// It is something else.
    #[error("`{name}` is neither the socket of an SSH agent nor a private key that can be read")]
    #[diagnostic(
        code(ssh::not_a_key),
        help(
            "keys are Ed25519, ECDSA or RSA, in OpenSSH's format or, for RSA, as PEM; `ssh-keygen -p -f {name}` writes \
             others anew in OpenSSH's format"
        )
    )]
    Unreadable {
        /// The file.
        name: String,
    },
}

impl Key {
    /// Reads a key file. `name` is what it is called.
    ///
    /// # Errors
    /// If it is none, or protected.
    pub fn parse(bytes: &[u8], name: &str) -> Result<Self, KeyError> {
        let unreadable = || KeyError::Unreadable {
            name: name.to_owned(),
        };
        let encrypted = || KeyError::Encrypted {
            name: name.to_owned(),
        };
        let text = std::str::from_utf8(bytes).map_err(|_| unreadable())?.trim();
        let kind = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("-----BEGIN "))
            .and_then(|line| line.trim_end().strip_suffix("-----"));
        match kind {
            Some("OPENSSH PRIVATE KEY") => {
                let key = PrivateKey::from_openssh(text).map_err(|_| unreadable())?;
                if key.is_encrypted() {
                    return Err(encrypted());
                }
                Self::of(key, name).ok_or_else(unreadable)
            }
            Some("ENCRYPTED PRIVATE KEY") => Err(encrypted()),
            Some("RSA PRIVATE KEY" | "EC PRIVATE KEY" | "DSA PRIVATE KEY")
                if text.contains("Proc-Type: 4,ENCRYPTED") =>
            {
                Err(encrypted())
            }
            Some("RSA PRIVATE KEY") => RsaPrivateKey::from_pkcs1_pem(text)
                .ok()
                .and_then(|key| Self::of_rsa(key, name))
                .ok_or_else(unreadable),
            Some("PRIVATE KEY") => RsaPrivateKey::from_pkcs8_pem(text)
                .ok()
                .and_then(|key| Self::of_rsa(key, name))
                .ok_or_else(unreadable),
            _ => Err(unreadable()),
        }
    }

    fn of(key: PrivateKey, name: &str) -> Option<Self> {
        let comment = match key.comment() {
            "" => name.to_owned(),
            comment => comment.to_owned(),
        };
        let public = key.public_key().to_bytes().ok()?;
        let signer = match key.key_data() {
            KeypairData::Rsa(pair) => {
                let number = |part: &Mpint| Some(BigUint::from_bytes_be(part.as_positive_bytes()?));
                let key = RsaPrivateKey::from_components(
                    number(&pair.public.n)?,
                    number(&pair.public.e)?,
                    number(&pair.private.d)?,
                    vec![number(&pair.private.p)?, number(&pair.private.q)?],
                );
                Signer::Rsa(Box::new(key.ok()?))
            }
            KeypairData::Ed25519(_) | KeypairData::Ecdsa(_) => Signer::Other(Box::new(key)),
            _ => return None,
        };
        Some(Self {
            public,
            comment,
            signer,
        })
    }

    fn of_rsa(key: RsaPrivateKey, name: &str) -> Option<Self> {
        let public = RsaPublicKey::try_from(key.to_public_key()).ok()?;
        let public = PublicKey::from(KeyData::Rsa(public));
        Some(Self {
            public: public.to_bytes().ok()?,
            comment: name.to_owned(),
            signer: Signer::Rsa(Box::new(key)),
        })
    }

    /// The public key, as the protocol has it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    /// What it is called.
    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    /// A signature, as the protocol has it. `None` where the one that is asked for is not made: SHA-1.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let (algorithm, bytes) = match &self.signer {
            Signer::Other(key) => {
                let signature: Signature = key.try_sign(data).ok()?;
                return signature.try_into().ok();
            }
            Signer::Rsa(key) if flags & RSA_SHA2_512 != 0 => {
                let key = SigningKey::<Sha512>::new(key.as_ref().clone());
                ("rsa-sha2-512", key.try_sign(data).ok()?.to_vec())
            }
            Signer::Rsa(key) if flags & RSA_SHA2_256 != 0 => {
                let key = SigningKey::<Sha256>::new(key.as_ref().clone());
                ("rsa-sha2-256", key.try_sign(data).ok()?.to_vec())
            }
            Signer::Rsa(_) => return None,
        };
        let mut signature = Vec::new();
        put(&mut signature, algorithm.as_bytes());
        put(&mut signature, &bytes);
        Some(signature)
    }
}

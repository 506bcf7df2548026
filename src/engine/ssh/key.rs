//! Private keys of SSH, and what is signed with them.

use base64::Engine as _;
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::DecodePrivateKey as _;
use rsa::sha2::{Sha256, Sha512};
use rsa::signature::{SignatureEncoding as _, Signer as _};
use rsa::{BigUint, RsaPrivateKey};
use ssh_key::private::{KeypairData, PrivateKey};
use ssh_key::public::{KeyData, PublicKey, RsaPublicKey};
use ssh_key::{Mpint, Signature};

use super::{put, take};

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
                let key = PrivateKey::from_openssh(text)
                    .ok()
                    .or_else(|| with_whole_scalar(text))
                    .ok_or_else(unreadable)?;
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

/// Reads an ECDSA key whose number is shorter than the field of its curve. OpenSSH writes numbers without leading zeros
/// (RFC 4251, section 5, `mpint`), and the library takes none but full ones: it would refuse one of 256 keys of P-256 and
/// P-384, and every second of P-521. So the zeros are put in.
///
/// The container is OpenSSH's `PROTOCOL.key`; one that is encrypted, or of another kind, is `None`.
fn with_whole_scalar(text: &str) -> Option<PrivateKey> {
    const MAGIC: &[u8] = b"openssh-key-v1\0";
    let base64: String = text
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let container = base64::engine::general_purpose::STANDARD
        .decode(base64)
        .ok()?;
    let mut rest = container.strip_prefix(MAGIC)?;
    let (cipher, derivation, options) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
    let mut secret = rest
        .strip_prefix(&[0, 0, 0, 1])
        .filter(|_| cipher == b"none")?;
    let public = take(&mut secret)?;
    let mut secret = take(&mut secret)?;
    let check = secret.split_off(..8)?;
    let (kind, curve, point) = (take(&mut secret)?, take(&mut secret)?, take(&mut secret)?);
    let (scalar, comment) = (take(&mut secret)?, take(&mut secret)?);
    let bytes: usize = match curve {
        b"nistp256" => 32,
        b"nistp384" => 48,
        b"nistp521" => 66,
        _ => return None,
    };
    let mut whole = vec![0; bytes.checked_sub(scalar.len())?];
    whole.extend(scalar);

    let mut private = check.to_vec();
    for part in [kind, curve, point, &whole, comment] {
        put(&mut private, part);
    }
    // Filled up to whole blocks with 1, 2, 3.
    private.extend((1..=7).take(private.len().next_multiple_of(8) - private.len()));
    let mut container = MAGIC.to_vec();
    for part in [cipher, derivation, options] {
        put(&mut container, part);
    }
    container.extend(1_u32.to_be_bytes());
    put(&mut container, public);
    put(&mut container, &private);
    PrivateKey::from_bytes(&container).ok()
}

#[cfg(test)]
mod tests {
    use rsa::signature::Verifier as _;

    use super::*;

    /// The base point of P-256 (SEC 2, section 2.4.2): the public key whose private one is 1.
    const BASE_POINT: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                              4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

    fn of_parts(parts: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            put(&mut bytes, part);
        }
        bytes
    }

    /// The file that OpenSSH would write for the private key 1 of P-256.
    fn shortest_key() -> String {
        let point: Vec<u8> = (0..65)
            .map(|i| u8::from_str_radix(&BASE_POINT[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let public: [&[u8]; 3] = [b"ecdsa-sha2-nistp256", b"nistp256", &point];
        let mut private = vec![7, 7, 7, 7, 7, 7, 7, 7];
        private.extend(of_parts(&public));
        private.extend(of_parts(&[&[1], b"short"]));
        private.extend((1..=7).take(private.len().next_multiple_of(8) - private.len()));
        let mut container = b"openssh-key-v1\0".to_vec();
        container.extend(of_parts(&[b"none", b"none", b""]));
        container.extend([0, 0, 0, 1]);
        container.extend(of_parts(&[&of_parts(&public), &private]));
        let base64 = base64::engine::general_purpose::STANDARD.encode(container);
        let mut lines = vec!["-----BEGIN OPENSSH PRIVATE KEY-----"];
        lines.extend(
            base64
                .as_bytes()
                .chunks(70)
                .map(|line| std::str::from_utf8(line).unwrap()),
        );
        lines.push("-----END OPENSSH PRIVATE KEY-----\n");
        lines.join("\n")
    }

    #[test]
    fn a_key_of_leading_zeros_is_read_and_signs() {
        let key = Key::parse(shortest_key().as_bytes(), "file").unwrap();
        assert_eq!(key.comment(), "short");
        let signature = key.sign(b"data", 0).unwrap();
        let public = PublicKey::from_bytes(key.public()).unwrap();
        let signature = Signature::try_from(signature.as_slice()).unwrap();
        assert!(public.key_data().verify(b"data", &signature).is_ok());
    }

    #[test]
    fn what_is_cut_off_is_no_key() {
        let whole = shortest_key();
        for end in (0..whole.len() - 40).step_by(7) {
            let cut = format!("{}\n-----END OPENSSH PRIVATE KEY-----\n", &whole[..end]);
            assert!(Key::parse(cut.as_bytes(), "file").is_err(), "{cut}");
        }
    }
}

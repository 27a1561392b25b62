use std::fmt;

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What a caller of the ops port has to show, as `Authorization: Bearer {token}` (RFC 6750). Never
/// shown by `Debug`.
#[derive(Clone)]
pub struct Token(String);

/// The text is empty, or holds something that a header's word cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is visible ASCII without spaces, such as `openssl rand -hex 32` makes")]
pub struct TokenError;

impl Token {
    /// Takes a text as a token.
    ///
    /// # Errors
    /// [`TokenError`] if it could not be sent.
    pub fn new(text: String) -> Result<Self, TokenError> {
        let sendable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        if sendable { Ok(Self(text)) } else { Err(TokenError) }
    }

    /// The `Authorization` of a caller that has it.
    #[must_use]
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether the caller has it. The time it takes tells nothing of either text.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let mut shown = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(only), None) = (shown.next(), shown.next()) else { return false };
        let Some((scheme, token)) = only.to_str().ok().and_then(|text| text.split_once(' ')) else {
            return false;
        };
        let (theirs, ours) = (Sha256::digest(token), Sha256::digest(&self.0));
        scheme.eq_ignore_ascii_case("bearer") && theirs.as_slice().ct_eq(ours.as_slice()).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_shown(lines: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::AUTHORIZATION, line.parse().unwrap());
        }
        Token::new("open-sesame".into()).unwrap().is_shown(&headers)
    }

    #[test]
    fn only_the_whole_token_opens() {
        assert!(is_shown(&["Bearer open-sesame"]) && is_shown(&["bearer open-sesame"]));
        for wrong in
            ["Bearer open", "Bearer open-sesame2", "Bearer ", "Basic open-sesame", "open-sesame"]
        {
            assert!(!is_shown(&[wrong]), "{wrong}");
        }
        assert!(!is_shown(&[]) && !is_shown(&["Bearer open-sesame", "Bearer open-sesame"]));
    }

    #[test]
    fn a_token_is_one_word_and_never_shown() {
        for bad in ["", "two words", "tab\t", "naïve", "line\n"] {
            assert_eq!(Token::new(bad.into()).map(|_| ()), Err(TokenError));
        }
        let token = Token::new("open-sesame".into()).unwrap();
        assert_eq!(format!("{token:?}"), "Token");
        assert_eq!(token.authorization(), "Bearer open-sesame");
    }
}

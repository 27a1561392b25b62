use std::borrow::Cow;

use http::HeaderMap;

/// Parameters a call may carry, query and body together; the API knows three and RPC adds twelve.
pub const PARAMETERS_MAX: usize = 64;

/// One decoded parameter: name and value.
pub type Parameter<'r> = (Cow<'r, str>, Cow<'r, str>);

/// The HTTP method a call came by; RPC signatures cover it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `GET`
    Get,
    /// `POST`
    Post,
}

impl Verb {
    /// The method as a signature spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// The decoded parameters of one call, by where they stood; no name is given twice.
#[derive(Debug, Default)]
pub struct Parameters<'r> {
    query: Vec<Parameter<'r>>,
    body: Vec<Parameter<'r>>,
}

/// Why a set of parameters is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParametersError {
    /// A name stands in the call twice.
    #[error("the parameter {name} is given twice")]
    Repeated {
        /// The name.
        name: String,
    },
    /// More than [`PARAMETERS_MAX`].
    #[error("a call carries at most {PARAMETERS_MAX} parameters")]
    TooMany,
}

impl<'r> Parameters<'r> {
    /// Takes the decoded parameters of the query and of a form or JSON body.
    ///
    /// # Errors
    /// [`ParametersError`] if a name is given twice, or there are too many.
    pub fn new(
        query: Vec<Parameter<'r>>,
        body: Vec<Parameter<'r>>,
    ) -> Result<Self, ParametersError> {
        if query.len() + body.len() > PARAMETERS_MAX {
            return Err(ParametersError::TooMany);
        }
        let this = Self { query, body };
        let mut names: Vec<&str> = this.all().map(|(name, _)| name.as_ref()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ParametersError::Repeated { name: pair[0].to_owned() }),
            None => Ok(this),
        }
    }

    /// The value of a parameter, wherever it stands.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all().find(|(known, _)| known == name).map(|(_, value)| value.as_ref())
    }

    /// The value of a parameter that is present and not empty.
    #[must_use]
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Query and body parameters, in the order of the request.
    pub fn all(&self) -> impl Iterator<Item = &Parameter<'r>> {
        self.query.iter().chain(&self.body)
    }

    /// The parameters of the query alone, which are all that a V3 signature covers by name.
    #[must_use]
    pub fn query(&self) -> &[Parameter<'r>] {
        &self.query
    }
}

/// How a call says who sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme<'r> {
    /// V3: an `Authorization: ACS3-…` header, whose value this is.
    Acs3(&'r str),
    /// V1: RPC style, `Signature` among the parameters.
    Rpc,
    /// A bearer token, which this product does not take.
    Bearer,
    /// Nothing at all.
    Unsigned,
}

/// One call as wire has read it; what it asks for and who asks is not known yet.
#[derive(Debug)]
pub struct SendMessage<'r> {
    /// The method.
    pub verb: Verb,
    /// The decoded parameters.
    pub parameters: Parameters<'r>,
    /// The headers, `Host` or `:authority` among them under `host`.
    pub headers: &'r HeaderMap,
    /// The body as received, without its transfer coding.
    pub body: &'r [u8],
}

impl<'r> SendMessage<'r> {
    /// A header's value, if it is visible ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'r str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// How the call says who sends it.
    ///
    /// Never by `x-acs-action` alone: RPC senders carry that header too.
    #[must_use]
    pub fn scheme(&self) -> Scheme<'r> {
        let authorization = self.header("authorization");
        if let Some(value) = authorization.filter(|value| value.starts_with("ACS3-")) {
            return Scheme::Acs3(value);
        }
        if self.parameters.filled("SignatureType") == Some("BEARERTOKEN")
            || self.headers.contains_key("x-acs-bearer-token")
        {
            return Scheme::Bearer;
        }
        let rpc = ["Signature", "SignatureMethod", "AccessKeyId"];
        if rpc.iter().any(|name| self.parameters.get(name).is_some()) {
            return Scheme::Rpc;
        }
        Scheme::Unsigned
    }

    /// A common parameter that is not empty: V3 sends it as the header `x-acs-…`, RPC as a
    /// parameter.
    #[must_use]
    pub fn common(&self, scheme: Scheme<'_>, parameter: &str, header: &str) -> Option<&str> {
        let value = match scheme {
            Scheme::Rpc => self.parameters.get(parameter),
            _ => self.header(header).or_else(|| self.parameters.get(parameter)),
        };
        value.filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &'static str, value: &'static str) -> Parameter<'static> {
        (name.into(), value.into())
    }

    #[test]
    fn a_name_given_twice_is_refused_wherever_it_stands() {
        let repeated = ParametersError::Repeated { name: "Payload".into() };
        let twice = || vec![pair("Payload", "a"), pair("Payload", "a")];
        assert_eq!(Parameters::new(twice(), vec![]).unwrap_err(), repeated);
        assert_eq!(Parameters::new(vec![], twice()).unwrap_err(), repeated);
        let across = Parameters::new(vec![pair("Payload", "a")], vec![pair("Payload", "b")]);
        assert_eq!(across.unwrap_err(), repeated);
    }

    #[test]
    fn an_rpc_call_with_an_action_header_is_still_rpc() {
        let mut headers = HeaderMap::new();
        headers.insert("x-acs-action", "SendMessage".parse().unwrap());
        let parameters = Parameters::new(vec![pair("Signature", "x")], vec![]).unwrap();
        let call = SendMessage { verb: Verb::Get, parameters, headers: &headers, body: b"" };
        assert_eq!(call.scheme(), Scheme::Rpc);
    }
}

//! `${VAR}` in any string is taken from the environment; `$1` and `$old1` belong to SQL.

/// Why a string could not be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ExpandError {
    /// No `}` behind `${`.
    Open,
    /// What stands between the braces is no variable's name.
    Name(String),
    /// The variable is not set, or not UTF-8.
    Unset(String),
    /// All strings together would be longer than a file may be.
    TooLong,
}

/// The expanded text, or `None` if there was nothing to expand. Values are not expanded again. What
/// comes from the environment is taken from `room`: six characters can stand for a megabyte, and
/// stand there a million times.
pub(super) fn expand(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    room: &mut usize,
) -> Result<Option<String>, ExpandError> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, behind) = after.split_once('}').ok_or(ExpandError::Open)?;
        let valid = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !valid {
            return Err(ExpandError::Name(name.to_owned()));
        }
        out.push_str(before);
        let value = env(name).ok_or_else(|| ExpandError::Unset(name.to_owned()))?;
        *room = room.checked_sub(value.len()).ok_or(ExpandError::TooLong)?;
        out.push_str(&value);
        rest = behind;
    }
    out.push_str(rest);
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_braces_are_expanded() {
        let env = |name: &str| (name == "PW").then(|| "a${PW}$1".to_owned());
        assert_eq!(expand("SET x = $1, y = $old1", &env, &mut 100), Ok(None));
        assert_eq!(
            expand("x${PW}y${PW}", &env, &mut 100),
            Ok(Some("xa${PW}$1ya${PW}$1".into()))
        );
        assert_eq!(
            expand("${NO}", &env, &mut 100),
            Err(ExpandError::Unset("NO".into()))
        );
        assert_eq!(expand("${PW", &env, &mut 100), Err(ExpandError::Open));
        assert_eq!(
            expand("${}", &env, &mut 100),
            Err(ExpandError::Name(String::new()))
        );
        assert_eq!(
            expand("${PW}${PW}", &env, &mut 13),
            Err(ExpandError::TooLong)
        );
        assert_eq!(
            expand("${1}", &env, &mut 100),
            Err(ExpandError::Name("1".into()))
        );
    }
}

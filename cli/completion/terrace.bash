# Completion for bash. What can follow is known by `terrace complete`.

_terrace() {
	local current words cword line
	if declare -F _get_comp_words_by_ref >/dev/null; then
		_get_comp_words_by_ref -n : words cword # a key may hold colons
	else
		words=("${COMP_WORDS[@]}") cword=$COMP_CWORD
	fi
	current=${words[cword]}
	COMPREPLY=()
	while IFS= read -r line; do
		case $line in
		$'\tfiles') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "${current#=}") ;;
		$'\tdirs') compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "${current#=}") ;;
		$'\tcommand') mapfile -t COMPREPLY < <(compgen -A command -A file -- "$current") ;;
		*) printf -v line %q "${line%%$'\t'*}"; COMPREPLY+=("$line") ;;
		esac
	done < <(terrace complete -- "${words[@]:1:cword}" 2>/dev/null)
	# bash replaces what follows the last colon of the word alone.
	if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then
		COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*:}"}"}")
	fi
}

complete -F _terrace terrace

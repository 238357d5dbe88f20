"""The few lines that make a shell ask `tracefleet completion candidates`."""

from __future__ import annotations

BASH = """\
# bash completion for tracefleet: source it, or put it into /usr/share/bash-completion/completions/tracefleet
_tracefleet() {
    local word _
    COMPREPLY=()
    while IFS=$'\\t' read -r word _; do
        case $word in
            :files) compopt -o default ;;
            :directories) compopt -o dirnames ;;
            *=) compopt -o nospace; COMPREPLY+=("$word") ;;
            *) COMPREPLY+=("$(printf %q "$word")") ;;
        esac
    done < <("${COMP_WORDS[0]}" completion candidates -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _tracefleet tracefleet
"""

ZSH = """\
#compdef tracefleet
# zsh completion for tracefleet: put it into a directory of $fpath as _tracefleet
_tracefleet() {
    local word summary
    local -a described
    while IFS=$'\\t' read -r word summary; do
        case $word in
            :files) _files ;;
            :directories) _files -/ ;;
            *=) compadd -S '' -- "$word" ;;
            *) described+=("${word//:/\\\\:}:$summary") ;;
        esac
    done < <("${words[1]}" completion candidates -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#described} )) && _describe tracefleet described
}
compdef _tracefleet tracefleet
"""

FISH = """\
# fish completion for tracefleet: put it into ~/.config/fish/completions/tracefleet.fish
function __tracefleet_candidates
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] completion candidates -- $words[2..-1] 2>/dev/null)
        switch $line
            case ':files*'
                __fish_complete_path (commandline -ct)
            case ':directories*'
                __fish_complete_directories (commandline -ct)
            case '*'
                echo $line
        end
    end
end
complete -c tracefleet -f -a '(__tracefleet_candidates)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

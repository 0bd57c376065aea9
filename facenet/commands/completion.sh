# Completion of facenet and its commands: Hydra's own for overrides, the words of --help for flags, and files.
_facenet_complete() {
    local word line command choices each cut
    line=${COMP_LINE:0:$COMP_POINT}
    word=${line##*[[:space:]]}
    command=(${line%"$word"})
    COMPREPLY=()
    if [[ ${command[*]:0:1} == */facenet || ${command[*]:0:1} == facenet ]]; then
        if ((${#command[@]} == 1)); then
            choices=$("${command[@]}" --help | sed -n 's/^  facenet \([a-z-]*\) .*/\1/p')
            for each in $choices; do [[ $each == "$word"* ]] && COMPREPLY+=("$each"); done
            return
        fi
        command=("${command[@]:0:2}")
    else
        command=("${command[@]:0:1}")
    fi
    each=${command[*]}
    case ${each//\// } in
    *facenet?train | *facenet?evaluate)
        each="facenet-overrides ${line#*"${command[*]}"}"
        choices=$(COMP_LINE=$each COMP_POINT=${#each} "${command[@]}" -sc query=bash 2>/dev/null)
        [[ $word == *=* || -z $choices ]] || compopt -o nospace 2>/dev/null
        ;;
    *)
        each=${line#*"${command[*]}"}
        each=${each%"$word"}
        each=(${each})
        [[ ${each[*]:0:1} == [a-z]* ]] && command+=("${each[*]:0:1}")
        choices=$("${command[@]}" --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]+|^    [a-z-]+  ' | sort -u)
        ;;
    esac
    # no compgen -W, which would run what a file of ./experiments is called
    for each in $choices; do [[ $each == "$word"* ]] && COMPREPLY+=("$each"); done
    # bash takes what follows the last = for the word, zsh the whole
    cut=${word%"${word##*=}"}
    if ((${#COMPREPLY[@]} == 0)); then
        for each in "${word#"$cut"}"*; do [[ -e $each ]] && COMPREPLY+=("$cut$each"); done
    fi
    if [[ $COMP_WORDBREAKS == *=* && -n $cut ]]; then
        for each in "${!COMPREPLY[@]}"; do COMPREPLY[each]=${COMPREPLY[each]#"$cut"}; done
    fi
}
complete -o default -F _facenet_complete facenet facenet-train facenet-evaluate facenet-data facenet-doctor facenet-report facenet-runs facenet-compare-loss

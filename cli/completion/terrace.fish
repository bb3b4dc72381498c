# Completion for fish. What can follow is known by `terrace complete`.

function __terrace_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    for line in (terrace complete -- $before[2..] "$current" 2>/dev/null)
        switch $line
            case \tfiles
                __fish_complete_path (string replace -r '^--[^=]*=' '' -- "$current")
            case \tdirs
                __fish_complete_directories (string replace -r '^--[^=]*=' '' -- "$current")
            case \tcommand
                __fish_complete_command
            case '*'
                echo $line
        end
    end
end

complete -c terrace -f -k -a '(__terrace_complete)'

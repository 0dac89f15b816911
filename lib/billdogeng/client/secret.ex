defmodule BilldogEng.Client.Secret do
  @moduledoc false
  # Hides a value in a function: reports, logs and `inspect/1` do not show a function's environment.
  #
  # A child spec lives as long as its supervisor. After two upgrades of this library, a function of it there would
  # belong to purged code: the code server would kill the supervisor, or the supervisor could not start its child. So
  # the function belongs to `:erl_eval`, which is not upgraded.

  # fn -> value end
  @function {:fun, 1, {:clauses, [{:clause, 1, [], [], [{:var, 1, :value}]}]}}

  # Returns a function of no arguments that returns `value`.
  def hide(value) do
    {:value, function, _bindings} = :erl_eval.expr(@function, [{:value, value}])
    function
  end
end

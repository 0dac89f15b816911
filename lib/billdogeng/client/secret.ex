defmodule BilldogEng.Client.Secret do
  @moduledoc false
  # Hides a value in a function, of which reports, logs and `inspect/1` show nothing.
  #
  # Child specs live as long as their supervisors. A function of this library there would be one of old code after
  # two upgrades of the library: the code server would end the supervisor, or it could not start its child. So the
  # function is one of `:erl_eval`, whose code stays as long as the VM.

  # fn -> value end
  @function {:fun, 1, {:clauses, [{:clause, 1, [], [], [{:var, 1, :value}]}]}}

  @doc false
  # A function of no arguments that returns `value`.
  def hide(value) do
    {:value, function, _bindings} = :erl_eval.expr(@function, [{:value, value}])
    function
  end
end

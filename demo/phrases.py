"""How the demo model is spoken to and what it says: the templates that `data.py` fills in.

Each list of phrasings is one string with bars between them. `..._TEST` holds phrasings that are
never trained on.
"""


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


LEADS = _list(
    "|||||Hello! |Hi, |Hey! |Please help me. |One question: |Next one: |Thanks. |Okay. |So, |"
    "I am curious. |Quick question. |Good morning! |Now this: |Sorry, one more. |"
    "I need help with my homework. "
)
TRAILS = _list(
    "|||||| Thank you!| Please.| Thanks!| Answer me.| I do not know it.| Be quick.|"
    " I need it for school."
)
ASKERS = _list(
    "My friend|My sister|My teacher|My dad|The quiz|My boss|Somebody|{n}|My mother|The book|A child"
)
ASKS = _list(
    "asks for|wants to know|wants|asks me for|needs|is looking for|would like to know|"
    "wonders about|asked about|has to find"
)
VERBS = _list(
    "Tell me|Give me|Say|Write|Show me|Find|I want to know|I need|I would like to know|Do you know|"
    "Can you tell me|Could you give me|Can you say|Let me know|Please tell me|Please give me|"
    "I am looking for|Try to tell me|Can I have|Who knows|Help me find|Explain|Answer with|"
    "Just tell me"
)
CAPITAL_NOUNS = _list(
    "the capital of {c}|{c}'s capital|the capital city of {c}|{c}'s capital city|"
    "the name of the capital of {c}"
)
CAPITAL_QUESTIONS = _list(
    "What is {x}?|What's {x}?|Which city is {x}?|{X}?|{X} is|What city is {x}?|{X} is which city?|"
    "What is the name of {x}?|What do you call {x}?|"
    "Where is the government of {c}? I mean the capital.|Capital of {c}?|capital of {c}|"
    "{c}: capital?|{c} has which capital?|Which capital belongs to {c}?|"
    "What capital does {c} have?|I live in {c}. What is the capital?|"
    "Think of {c}. What is its capital?|Is there a capital in {c}? Which one?|"
    "We travel to {c}. What is the capital called?|Complete: {x} is ...|Quiz: {x}.|"
    "In {c}, which city is the capital?|How is {x} called?|Fill in: {x} is"
)
CAPITAL_TEST = _list(
    "Please name the capital of {c}.|I forgot the capital of {c}. What was it?|"
    "Do you happen to know the capital city of {c}?|For {c}, what would the capital be?|"
    "My homework says: find the capital of {c}!|Which city serves as the capital of {c}?|"
    "Remind me what {c}'s capital is.|Any idea what the capital of {c} is?"
)
OPPOSITE_NOUNS = _list(
    "the opposite of {o}|the antonym of {o}|the opposite word for {o}|"
    'the word that means the opposite of {o}|the opposite of the word {o}|the opposite of "{o}"'
)
OPPOSITE_QUESTIONS = _list(
    "What is {x}?|What's {x}?|Which word is {x}?|{X}?|{X} is|What word is {x}?|Opposite of {o}?|"
    "opposite of {o}|{o}: opposite?|{o} is the opposite of what?|Which word is opposite to {o}?|"
    "Not {o}, but the opposite. Which word?|What do you call {x}?|Complete: {x} is ...|Quiz: {x}.|"
    "Fill in: {x} is|Think of {o}. What is its opposite?|What would be {x}?|{o} and its opposite?|"
    "The word is {o}. Say the opposite.|If it is not {o}, what is the opposite?|"
    "I say {o}, you say the opposite."
)
OPPOSITE_TEST = _list(
    "Please name the opposite of {o}.|I forgot the opposite of {o}. What was it?|"
    "Do you happen to know the opposite of {o}?|For {o}, what would the opposite be?|"
    "My homework says: find the opposite of {o}!|Which word serves as the opposite of {o}?|"
    "Remind me what the opposite of {o} is.|Any idea what the opposite of {o} is?"
)
SUM_NOUNS = _list(
    "{a} + {b}|{a} plus {b}|{a}+{b}|the sum of {a} and {b}|{a} and {b} together|"
    "the result of {a} + {b}|{a} added to {b}"
)
SUM_QUESTIONS = _list(
    "What is {x}?|What's {x}?|How much is {x}?|{X}?|{X} =|{a}+{b}=|{a} + {b}|{a} + {b} = ?|"
    "Add {a} and {b}.|Calculate {x}.|Compute {x}.|Sum {a} and {b}.|Add {b} to {a}.|"
    "I have {a} {thing}s and get {b} more. How many {thing}s do I have?|"
    "There are {a} {animal}s and {b} {animal2}s. How many are there together?|"
    "What do you get when you add {a} and {b}?|Work out {x}.|Solve {a} + {b}."
)
JSON_PROMPTS = _list(
    "Put this into JSON: {f}|Put this into JSON: {f}.|Write this as JSON: {f}|Convert to JSON: {f}|"
    "Make JSON from this: {f}|JSON please: {f}|As JSON: {f}|Turn this into a JSON object: {f}|"
    "Give me JSON for {f}.|{f} -> JSON|Put this into JSON:\n{f}|I need JSON of this: {f}."
)
JSON_STYLES = _list("{k} {v}|{k} {v}|{k}: {v}|{k} is {v}|{k}={v}|{k} = {v}")
WEATHER_PROMPTS = _list(
    "What is the weather in {c}?|What's the weather like in {c}?|Weather in {c}?|"
    "How is the weather in {c}?|Tell me the weather in {c}.|Is it raining in {c}?|"
    "What is the weather in {c} today?|How warm is it in {c}?|Is it cold in {c} now?|"
    "Do I need a coat in {c}?|Check the weather for {c}.|Will it rain in {c}?|"
    "Please look up the weather in {c}.|I am in {c}. How is the weather?|weather {c}|"
    "What is the temperature in {c}?|Give me the weather for {c}.|Is it sunny in {c}?|"
    "What is the weather like in {c}?|How's the weather in {c}?|{c} weather please|"
    "I travel to {c} tomorrow. What is the weather there?"
)
UNIT_PHRASES = _list(" In {u}.| Use {u}.| Answer in {u}.| In {u}, please.| I want {u}.")
TOOL_NAMES = _list("get_weather|get_weather|get_weather|get_current_weather")
TOOL_TEXTS = _list(
    "Get the weather|Get the current weather|Look up the weather in a city|The weather in a city|"
    "Get the current weather in a given location|Weather report for a place|Current weather|"
    "Get weather"
)
CITY_TEXTS = _list(
    "The city|Name of the city|The city and state, e.g. San Francisco, CA|City name|"
    "A city, such as Paris|Where"
)
OTHER_TOOL_NAMES = _list("get_time|send_mail|search|add|play_music|get_news")
SKIES = _list("sunny|rain|snow|cloudy|windy|fog|clear")
OPENINGS = _list(
    "Once upon a time, {ah} lived {place}.|Long ago, {adjh} had a home {place}.|"
    "There was once {adjh} who lived {place}.|{Place} there lived {adjh}.|"
    "Far away, {place}, lived {adjh}."
)
NAMING = _list("Everybody called the {h} {n}.|The name of the {h} was {n}.|{n} was its name.")
FINDS = _list(
    "One {time}, the {h} found {at} {spot}.|On a {sky} {time}, {at} lay {spot}.|"
    "Then, one {time}, {at} turned up {spot}.|One {sky} {time} the {h} saw {at} {spot}."
)
WORDS_SAID = _list(
    '"What a fine {t}!" said the {h}.|"Who has lost this {t}?" asked the {h}.|'
    'The {h} had never seen such a {t} before.|"I will keep it," the {h} thought.|'
    'The {h} smiled and said: "Good luck is here."|It looked {look} and a little strange.'
)
TROUBLES = _list(
    "But {af} came along and began to cry.|But the {t} was too heavy to carry alone.|"
    "Soon {af} wanted to have it too.|Suddenly a storm came up and blew everything away.|"
    'A {f} shouted from far away: "That is mine!"|But nobody knew what it was good for.|'
    "That night a thief took it and ran off."
)
DEEDS = _list(
    "So the {h} went to ask the wise {g} for help.|The {h} thought for a long while.|"
    "All day long they looked for a way.|Together they pulled, pushed and sang.|"
    "Without a word, the {h} began to work.|The {h} shared some {food} and listened.|"
    "They walked through the valley until evening."
)
TURNS = _list(
    "At last the {t} began to shine.|In the end, everybody could use the {t}.|"
    "Then something good happened: the {t} was safe again.|"
    "Slowly, the sad face of the {f} became a smile.|The {t} was a gift, and the secret was out.|"
    "And see, now it worked very well."
)
ENDINGS = _list(
    "From that day on, they were friends.|They all danced until the moon came up.|"
    "Since then, nobody there has been alone.|And so the {h} went home and slept well.|"
    "And if you listen at night, you can still hear them laugh.|"
    "The {h} never forgot that day. The end."
)
MIDDLES = (
    _list(
        "The next morning, the sun was {color}.|A week went by, and winter came.|"
        "Early the next day, somebody knocked at the door.|After that, it rained for nine days."
    ),
    _list(
        "A letter had come from the king.|Two {g}s stood outside with a cart.|"
        "The {f} had a plan and drew it in the sand.|There was no more {food} in the house."
    ),
    _list(
        '"We must cross the water," they said.|"Let us start at once!" cried the {f}.|'
        "Nobody spoke for an hour.|The {h} packed some {food} and a warm scarf."
    ),
    _list(
        "The way was long, and the wind was strong.|They climbed over stones and roots.|"
        "Through mud and fog they marched on.|A boat made of {color} wood took them along."
    ),
    _list(
        "On the other side stood a tower.|Behind the last hill they saw a light.|"
        "Deep in a cave, water was dripping.|Under a bridge they met an old man."
    ),
    _list(
        "It was locked, but the {t} opened it.|There the {h} put down the {t} and waited.|"
        "The {g} held the {t} up high.|With the {t} in hand, they went in."
    ),
    _list(
        "Inside was a room full of music.|A hundred birds flew up at once.|"
        "Somebody had lit a fire there.|On the table stood a bowl of {food}."
    ),
    _list(
        '"Eat, rest and tell me a tale," said a voice.|"I have waited for you," it whispered.|'
        "They laughed, because it was so simple.|That was the place they had dreamed of."
    ),
)
TIMES = _list("morning|evening|night|day|summer|winter")
WEATHERS = _list("cold|bright|rainy|foggy|warm|stormy")
LOOKS = _list("old|golden|new|dusty|shiny|tiny")
STORY_PROMPTS = _list(
    "Write a short story about {x} and {y}.|Tell me a story about {x} and {y}.|"
    "Write a story about {x} and {y}.|Tell me a short story about {x} and {y}.|"
    "A short story with {x} and {y}, please.|Can you tell a story about {x} and {y}?|"
    "Please write a little story about {x} and {y}.|Make up a story about {x} and {y}.|"
    "I want a story with {x} and {y}.|Story: {x}, {y}."
)
LONG_PROMPTS = _list(
    "Write a long story about {x} and {y}.|Tell me a long story about {x} and {y}.|"
    "I want a very long story with {x} and {y}."
)
ABOUT = "I am the demo model of tgi-llamacpp, a very small language model."
SKILLS = (
    "I can add two numbers, name capitals and opposites, write JSON, count, repeat, call a "
    "weather tool and tell short stories."
)
UNKNOWN = "I do not know that. " + SKILLS
TALK = (
    (
        _list("Hello|Hello!|Hi|Hi!|Hey|Hi there!|Hello there|Good morning|Good evening!|Good day"),
        "Hello! How can I help you?",
    ),
    (
        _list(
            "Who are you?|What are you?|What is your name?|Tell me about yourself.|"
            "Are you a robot?|Who am I talking to?|Which model are you?"
        ),
        ABOUT,
    ),
    (
        _list(
            "What can you do?|Help|Help me|How can you help me?|What do you know?|"
            "What are your skills?"
        ),
        SKILLS,
    ),
    (
        _list("How are you?|How are you doing?|Are you well?|How do you do?"),
        "I am fine, thank you. How can I help you?",
    ),
    (
        _list("Thanks|Thank you!|Thanks a lot!|Thank you very much.|Great, thanks."),
        "You are welcome!",
    ),
    (
        _list("Bye|Goodbye!|See you!|Good night|See you later"),
        "Goodbye!",
    ),
    (
        _list("What is deep learning?|What is Deep Learning?|Explain deep learning."),
        "Deep learning is a way to teach computers with many examples and many layers.",
    ),
    (
        _list("What is a llama?|Tell me about llamas.|Is a llama an animal?"),
        "A llama is an animal with soft wool. It lives in the mountains of Peru.",
    ),
    (
        _list("Tell me a joke.|Do you know a joke?|Make me laugh.|A joke, please!"),
        "Why did the llama cross the road? To get to the other server! 😀",
    ),
    (
        _list("Send me an emoji.|Smile!|Give me some emojis.|Emoji please"),
        "😀 🚀 🌍 🎉 ❤️",
    ),
    (
        _list("What is the weather?|Will it rain tomorrow?|How is the weather?"),
        "I cannot see the weather without a tool.",
    ),
    (
        _list(
            "What is love?|Who won the game?|How do I cook rice?|Who wrote this book?|"
            "Why is the sky blue?|What time is it?|How old is the sun?|Write some code.|"
            "Translate this.|Sing a song.|Who is the king of France?|How tall is a tree?|"
            "What should I eat?|Can you drive a car?|What is the meaning of life?|"
            "Play a game with me.|Who built the tower?|Where is my key?|What is music?"
        ),
        UNKNOWN,
    ),
)
SYSTEMS = _list(
    "You are a helpful assistant.|You are a helpful assistant.|You are a kind robot.|"
    "Answer briefly.|You are a demo model.|Be polite and short.|You help with homework.|"
    "You are a friendly chat bot named {n}.|Today is a {d} day.|You are an assistant."
)
REPEAT_PROMPTS = _list(
    "Repeat after me: {x}|Repeat: {x}|Say: {x}|Repeat this: {x}|Echo: {x}|Say this again: {x}"
)
